"""Other ways to ask for a fact, and questions that ask for something else.

Texts with a slot for a name ship with the trainer. Filled with a fact's subject, each makes the
model expect something. Where it expects what it expects behind the fact's own prompt, the text asks
the same: Σ √(p q) over the next token, the Bhattacharyya coefficient of the two distributions, is
near 1. Nobody has to say what a relation is, and an invented subject will do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llamacart.passes.scoring import visit_logits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart_trainer.recipe.facts import Fact

    Coefficients = NDArray[np.float64]
    Floats = NDArray[np.float32]
    Text = tuple[int, ...]

SAME = 0.6
"""Coefficient from which on a text asks the same."""

OTHER = 0.5
"""Coefficient below which it asks something else."""

MOST_SAME = 8
"""Texts that ask the same: the likest ones."""

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
    forms: Sequence[Sequence[str]],
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
    texts = [list(map(fact.filled, own)) for fact, own in zip(facts, forms, strict=True)]
    like = []
    for fact, own in zip(facts, texts, strict=True):
        asked = [ask(text, fact.object)[0] for text in (fact.text, *own)]
        like.append(likeness(model, asked, n_threads=n_threads))
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


def likeness(model: Model, asked: Sequence[Text], *, n_threads: int | None = None) -> Coefficients:
    """Coefficients of what is expected behind the first text and behind each other [n − 1].

    Args:
        model: The model.
        asked: Token ids; at least one text.
        n_threads: Threads for compute.
    """
    first = np.zeros(0, np.float32)
    found = np.zeros(len(asked))

    def compare(number: int, _row: int, logits: Floats) -> None:
        nonlocal first
        roots = np.exp((logits - logits.max()) / 2)
        roots /= np.linalg.norm(roots)
        if number == 0:
            first = roots
        found[number] = float(first @ roots)

    visit_logits(model, asked, [len(text) - 1 for text in asked], compare, n_threads=n_threads)
    return found[1:]


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
