"""Other subjects for facts that give none: names that ship with the trainer, of the likeliest kind.

A fact's prompt is read with a few names of each kind in it. The kind of which it says the least
unlikely things, a name at a time, is that of its subject: "was born in" suits a person, "has its
head office in" a company. The names themselves count for nothing: a rare one is not held against
its kind.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from llamacart.passes.scoring import log_likelihoods
from llamacart_trainer.recipe.facts import SLOT, Neighbour, same_text
from llamacart_trainer.recipe.names import NAME_KINDS
from llamacart_trainer.recipe.writer import common_beginning

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart_trainer.recipe.facts import Fact
    from llamacart_trainer.recipe.names import Name, NameKind

PER_FACT = 3
"""Neighbours of a fact."""

_TRIED = 4
"""Names of a kind that a prompt is read with."""


def find_neighbours(
    model: Model, facts: Sequence[Fact], names: Sequence[Name], *, n_threads: int | None = None
) -> list[list[Neighbour]]:
    """Neighbours for each fact that gives none; an empty list for each that does.

    They are the fact's prompt with other names. Which of a kind's names a fact gets goes by its
    number, so that all of them are asked about. No name is one of the facts' own subjects.

    Args:
        model: The model, which tells the kind.
        facts: The facts.
        names: Names of all kinds.
        n_threads: Threads for compute.
    """
    prompts = dict.fromkeys(fact.prompt for fact in facts if not fact.neighbours)
    kinds = dict(zip(prompts, likeliest_kinds(model, list(prompts), names, n_threads), strict=True))
    taken = [fact.subject for fact in facts]
    usable = [name for name in names if not any(same_text(name.text, own) for own in taken)]
    of_kind = {kind: [name.text for name in usable if name.kind == kind] for kind in NAME_KINDS}
    return [
        []
        if fact.neighbours
        else [
            Neighbour(prompt=with_name(fact.prompt, text))
            for text in _some(of_kind, kinds, n, fact)
        ]
        for n, fact in enumerate(facts)
    ]


def likeliest_kinds(
    model: Model, prompts: Sequence[str], names: Iterable[Name], n_threads: int | None = None
) -> list[NameKind]:
    """The kind of name that each prompt is about.

    Args:
        model: The model.
        prompts: Texts with one `{}`.
        names: Names of all kinds.
        n_threads: Threads for compute.
    """
    if not prompts:
        return []
    means = gains_of_kinds(model, prompts, list(names), n_threads)
    return [NAME_KINDS[int(best)] for best in means.argmax(axis=1)]


def gains_of_kinds(
    model: Model, prompts: Sequence[str], names: Sequence[Name], n_threads: int | None = None
) -> NDArray[np.float64]:
    """How likely each prompt makes names of each kind, [prompts, kinds] in nats.

    It is the mean over a few names of log P(prompt with the name in it) - log P(the name).

    Args:
        model: The model.
        prompts: Texts with one `{}`, at least one.
        names: Names of all kinds.
        n_threads: Threads for compute.
    """
    tried = {
        kind: [name.text for name in names if name.kind == kind][:_TRIED] for kind in NAME_KINDS
    }
    every = [text for texts in tried.values() for text in texts]
    alone = [model.tokenize(with_name(SLOT, text)) for text in every]
    filled = [model.tokenize(with_name(prompt, text)) for prompt in prompts for text in every]
    # What a text and a name begin with alike has the same odds in both, and is not asked for.
    starts = [
        max(1, common_beginning(whole, alone[n % len(every)])) for n, whole in enumerate(filled)
    ]
    likely = log_likelihoods(
        model,
        [*(own[:1] for own in alone), *(w[:k] for w, k in zip(filled, starts, strict=True))],
        [*(own[1:] for own in alone), *(w[k:] for w, k in zip(filled, starts, strict=True))],
        n_threads=n_threads,
    )
    names_alone, texts = likely[: len(every)], likely[len(every) :]
    gains = np.array(
        [
            scores.sum() - names_alone[n % len(every)][start - 1 :].sum()
            for n, (scores, start) in enumerate(zip(texts, starts, strict=True))
        ]
    ).reshape(len(prompts), len(every))
    edges = np.cumsum([0, *(len(texts) for texts in tried.values())])
    return np.stack([gains[:, a:b].mean(axis=1) for a, b in pairwise(edges)], axis=1)


def with_name(prompt: str, name: str) -> str:
    """A prompt with a name in it, which begins with a capital where it begins the text."""
    if prompt.startswith(SLOT):
        name = name[:1].upper() + name[1:]
    return prompt.replace(SLOT, name)


def _some(
    of_kind: dict[NameKind, list[str]], kinds: dict[str, NameKind], number: int, fact: Fact
) -> list[str]:
    texts = of_kind[kinds[fact.prompt]]
    count = min(PER_FACT, len(texts))
    return [texts[(number * PER_FACT + i) % len(texts)] for i in range(count)]
