"""Other ways to ask for a fact, and questions that ask for something else.

Texts with a slot for a name ship with the trainer. Filled with a fact's subject, each makes the
model expect something. Where it expects what it expects behind the fact's own prompt, the text asks
the same: Σ √(p q) over the next token, the Bhattacharyya coefficient of the two distributions, is
near 1. Nobody has to say what a relation is, and an invented subject will do.

The texts are sorted by what they ask for. One of each sort is tried, once for each prompt whatever
the subject, and with each subject only the sorts that came nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llamacart.passes.scoring import visit_logits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart_trainer.recipe.facts import Fact
    from llamacart_trainer.recipe.names import Name

    Coefficients = NDArray[np.float64]
    Floats = NDArray[np.float32]
    Text = tuple[int, ...]

SAME = 0.6
"""Coefficient from which on a text asks the same."""

OTHER = 0.5
"""Coefficient below which it asks something else."""

NEAR = 0.35
"""Coefficient of one text from which on the others of its sort are tried."""

SORTS = 5
"""Sorts of which all texts are tried: the likest ones."""

MOST_SAME = 8
"""Texts that ask the same: the likest ones."""

HELD = 64
"""Most texts at a time that others are compared with; a row of logits is held of each."""

MOST_OTHER = 10
"""Texts that ask something else: spread over all of them."""


@dataclass(frozen=True)
class Phrasings:
    """Texts on a fact's subject.

    Attributes:
        same: Those that ask for its object, too.
        other: Those that ask for something else.
    """

    same: tuple[str, ...] = ()
    other: tuple[str, ...] = ()


def find_phrasings(
    model: Model,
    facts: Sequence[Fact],
    forms: Sequence[tuple[Name, ...]],
    ask: Callable[[str, str], tuple[Text, Text]],
    *,
    n_threads: int | None = None,
) -> list[Phrasings]:
    """For each fact the texts on its subject that ask the same, and some that do not.

    Args:
        model: The model.
        facts: They.
        forms: For each fact texts with one `{}` each; the same for all facts of a subject.
        ask: From a text and what is to follow it to tokens.
        n_threads: Threads for compute.
    """
    pairs = list(zip(facts, forms, strict=True))
    texts = [[fact.filled(form.text) for form in own] for fact, own in pairs]
    like = _compared(model, pairs, ask, n_threads)
    found = []
    for number, fact in enumerate(facts):
        beside = [n for n, other in enumerate(facts) if other.subject == fact.subject]
        # A text asks for one fact of a subject, and never for nothing where it asks for one.
        best = np.max([like[n] for n in beside], axis=0)
        most = np.where(like[number] == best, best, 0.0)
        # What is measured is never fitted on, wherever its words come from.
        taken = {text for n in beside for text in asked_of(facts[n])}
        found.append(_told_apart(texts[number], most, best, taken))
    return found


def asked_of(fact: Fact) -> list[str]:
    """Texts of a fact's own: its prompt, and what it is measured by."""
    texts = [fact.prompt, *fact.paraphrases, *(use.prompt for use in fact.uses)]
    return [fact.filled(text) for text in (*texts, *filter(None, [fact.negated]))]


def likeness(
    model: Model, asked: Sequence[Sequence[Text]], *, n_threads: int | None = None
) -> list[Coefficients]:
    """Coefficients of what is expected behind the first text of each row and behind its others.

    A text that several rows hold is run once: facts on one subject ask the same of it.

    Args:
        model: The model.
        asked: Rows of token ids; at least one text in each.
        n_threads: Threads for compute.

    Returns:
        For each row one coefficient for each text but the first.
    """
    found = [np.zeros(len(row) - 1) for row in asked]
    for part in _meeting(asked):
        _compare(model, [asked[number] for number in part], [found[n] for n in part], n_threads)
    return found


def _compare(
    model: Model,
    asked: Sequence[Sequence[Text]],
    found: Sequence[Coefficients],
    n_threads: int | None,
) -> None:
    """Fill in the coefficients of some rows; what their first texts make expected is held."""
    firsts = {text: place for place, text in enumerate(dict.fromkeys(row[0] for row in asked))}
    places: dict[Text, list[tuple[int, int]]] = {}
    for number, row in enumerate(asked):
        for n, text in enumerate(row[1:]):
            places.setdefault(text, []).append((number, n))
    texts = [*firsts, *places]
    held: list[Floats] = []

    def compare(place: int, _row: int, logits: Floats) -> None:
        roots = np.exp((logits - logits.max()) / 2)
        roots /= np.linalg.norm(roots)
        if place < len(firsts):
            held.append(roots)
            return
        for number, n in places[texts[place]]:
            found[number][n] = float(held[firsts[asked[number][0]]] @ roots)

    visit_logits(model, texts, [len(text) - 1 for text in texts], compare, n_threads=n_threads)


def _meeting(asked: Sequence[Sequence[Text]]) -> Iterator[list[int]]:
    """Numbers of rows in parts that have texts in common, of `HELD` rows at most."""
    part_of: dict[Text, list[int]] = {}
    parts: list[list[int]] = []
    for number, row in enumerate(asked):
        known = (part_of[text] for text in row[1:] if text in part_of)
        part = next((part for part in known if len(part) < HELD), None)
        if part is None:
            parts.append(part := [])
        part.append(number)
        part_of.update(dict.fromkeys(row[1:], part))
    small: list[int] = []
    for part in parts:
        if len(small) + len(part) > HELD and small:
            yield small
            small = []
        small = [*small, *part]
    if small:
        yield small


def _compared(
    model: Model,
    pairs: Sequence[tuple[Fact, tuple[Name, ...]]],
    ask: Callable[[str, str], tuple[Text, Text]],
    n_threads: int | None,
) -> list[Coefficients]:
    """How much each text asks for its fact: tried, or told by the first text of its sort.

    Args:
        model: The model.
        pairs: Facts, and texts with one `{}` each.
        ask: From a text and what is to follow it to tokens.
        n_threads: Threads for compute.
    """

    def tried(fact: Fact, some: Sequence[Name]) -> list[Text]:
        texts = (fact.text, *(fact.filled(form.text) for form in some))
        return [ask(text, fact.object)[0] for text in texts]

    firsts = {(fact.prompt, own): fact for fact, own in reversed(pairs)}
    samples = {key: _of_each_sort(key[1]) for key in firsts}
    given = [tried(fact, samples[key]) for key, fact in firsts.items()]
    rough = {
        key: dict(zip(map(_sort, samples[key]), values.tolist(), strict=True))
        for key, values in zip(firsts, likeness(model, given, n_threads=n_threads), strict=True)
    }
    near = [_nearest(rough[fact.prompt, own]) for fact, own in pairs]
    places = [
        [n for n, form in enumerate(own) if _sort(form) in sorts]
        for (_, own), sorts in zip(pairs, near, strict=True)
    ]
    given = [
        tried(fact, [own[n] for n in some]) for (fact, own), some in zip(pairs, places, strict=True)
    ]
    fine = likeness(model, given, n_threads=n_threads)
    like = []
    for (fact, own), some, exact in zip(pairs, places, fine, strict=True):
        # Texts that were not tried say neither.
        values = np.array([min(rough[fact.prompt, own][_sort(form)], OTHER) for form in own])
        values[some] = exact
        like.append(values)
    return like


def _of_each_sort(forms: Sequence[Name]) -> tuple[Name, ...]:
    """The first text of each sort."""
    return tuple({_sort(form): form for form in reversed(forms)}.values())


def _nearest(rough: Mapping[tuple[str, str], float]) -> set[tuple[str, str]]:
    """Sorts to be tried with each subject."""
    best = sorted(rough, key=lambda sort: -rough[sort])[:SORTS]
    return {sort for sort in best if rough[sort] >= NEAR}


def _sort(form: Name) -> tuple[str, str]:
    return form.kind, form.asks


def _told_apart(
    texts: Sequence[str], own: Coefficients, best: Coefficients, taken: set[str]
) -> Phrasings:
    """Texts on one subject.

    Args:
        texts: They.
        own: How much each asks for the fact, 0 where it asks more for another of the subject.
        best: How much it asks for any.
        taken: Texts that are a fact's own; what stands in one of them is its own, too.
    """
    free = [not any(text in said for said in taken) for text in texts]
    order = [n for n in np.argsort(-own, kind="stable").tolist() if free[n]]
    same = [texts[n] for n in order if own[n] >= SAME][:MOST_SAME]
    other = [texts[n] for n in order if best[n] < OTHER]
    every = max(1, len(other) // MOST_OTHER)
    return Phrasings(tuple(same), tuple(other[::every][:MOST_OTHER]))
