"""From facts to texts whose going on is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart_trainer.evaluation.facts.figures import Group
    from llamacart_trainer.recipe.facts import Fact, Neighbour


@dataclass(frozen=True)
class Probe:
    """A text that shows something of a fact.

    Attributes:
        fact: Number of the fact.
        group: What it shows.
        text: The text.
        learnt: What the fact makes of it: the object, the subject of a reversed text, the answer of
            a use. In a group of `STAYS` it must not come.
        before: How it goes on without the fact; None for the model's own words.
    """

    fact: int
    group: Group
    text: str
    learnt: str
    before: str | None = None


def probes_of(
    facts: Sequence[Fact],
    found: Sequence[Sequence[Neighbour]],
    elsewhere: Sequence[Sequence[str]],
) -> tuple[Probe, ...]:
    """All texts of some facts.

    Args:
        facts: The facts.
        found: For each fact the neighbours that serve where it gives none.
        elsewhere: For each fact texts on its subject that ask for something else.
    """
    return tuple(
        probe
        for number, (fact, near, other) in enumerate(zip(facts, found, elsewhere, strict=True))
        for probe in _of_fact(number, fact, fact.neighbours or near, other)
    )


def _of_fact(
    number: int, fact: Fact, near: Sequence[Neighbour], elsewhere: Sequence[str]
) -> list[Probe]:
    known = fact.object
    probes = [Probe(number, "prompt", fact.text, known, fact.was)]
    for text in map(fact.filled, fact.paraphrases):
        probes.append(Probe(number, "paraphrase", text, known, fact.was))
    for neighbour in near:
        probes.append(Probe(number, "neighbour", neighbour.prompt, known, neighbour.answer))
    for text in elsewhere:
        probes.append(Probe(number, "elsewhere", text, known))
    if fact.negated is not None:
        probes.append(Probe(number, "negated", fact.filled(fact.negated), known))
    if fact.reversed is not None:
        probes.append(Probe(number, "reversed", fact.reversed, fact.subject))
    for use in fact.uses:
        probes.append(Probe(number, "use", fact.filled(use.prompt), use.answer))
    return probes
