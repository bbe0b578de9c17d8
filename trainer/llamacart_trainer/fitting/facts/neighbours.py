"""Other subjects, for which a fact's prompt is to go on as before: those that are hard to tell.

Of the names that ship with the trainer the nearest ones are taken, as the model sees them at a
third of its depth, where a name has been put together from its tokens. The others share a word
with the subject: they look like it, and are somebody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llamacart.llama.sites import RESIDUAL_OUTPUT
from llamacart.passes.capture import capture, row_offsets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart_trainer.recipe.names import Name, NameKind

    Floats = NDArray[np.float32]

DEPTH = 1 / 3
"""Share of the layers behind which names are compared."""

NEAREST = 0.5
"""Share of the neighbours that are names as they are."""

VOTERS = 10
"""Nearest names that say what kind of name a subject is."""

KINDS = 2
"""Kinds that it may be of."""


def find_neighbours(
    model: Model,
    subjects: Sequence[str],
    names: Sequence[str],
    count: int,
    *,
    n_threads: int | None = None,
) -> list[tuple[str, ...]]:
    """For each subject `count` other ones, or as many as there are.

    Args:
        model: The model.
        subjects: Subjects of facts: none of them is a neighbour of another.
        names: Names to choose from.
        count: Of each subject.
        n_threads: Threads for compute.
    """
    known = {_plain(subject) for subject in subjects}
    free = [name for name in names if not _overlaps(_plain(name), known)]
    if not free or not count:
        return [() for _ in subjects]
    near = _nearness(model, subjects, free, n_threads)
    found = []
    for subject, row in zip(subjects, near, strict=True):
        nearest = [free[i] for i in np.argsort(-row, kind="stable")]
        mixed = [text for text in mixtures(subject, nearest) if _plain(text) not in known]
        n_names = max(round(count * NEAREST), count - len(mixed))
        found.append((*nearest[:n_names], *mixed[: max(0, count - n_names)]))
    return found


def find_kinds(
    model: Model, subjects: Sequence[str], names: Sequence[Name], *, n_threads: int | None = None
) -> list[frozenset[NameKind]]:
    """For each subject the `KINDS` kinds of names that it looks most like.

    Args:
        model: The model.
        subjects: Subjects of facts.
        names: Names to compare them with, some of each kind.
        n_threads: Threads for compute.
    """
    near = _nearness(model, subjects, [name.text for name in names], n_threads)
    found = []
    for row in near:
        votes: dict[NameKind, float] = {}
        for n in np.argsort(-row, kind="stable")[:VOTERS].tolist():
            votes[names[n].kind] = votes.get(names[n].kind, 0.0) + float(row[n])
        found.append(frozenset(sorted(votes, key=lambda kind: -votes[kind])[:KINDS]))
    return found


def mixtures(subject: str, names: Sequence[str]) -> list[str]:
    """Names that differ from a subject of several words in the last word, or in the first."""
    words = subject.split()
    if len(words) < 2:
        return []
    mixed = []
    for number, name in enumerate(names):
        own = name.split()
        parts = [own[0], *words[1:]] if number % 2 else [*words[:-1], own[-1]]
        mixed.append(" ".join(parts))
    return [text for text in dict.fromkeys(mixed) if text != " ".join(words)]


def _nearness(
    model: Model, subjects: Sequence[str], names: Sequence[str], n_threads: int | None
) -> Floats:
    """Cosines of subjects [n] and names [m], [n, m].

    Each dimension counts less its mean over the names and in units of its spread.
    """
    texts = [model.tokenize(text) for text in (*names, *subjects)]
    layer = min(max(0, round(model.n_layer * DEPTH) - 1), max(0, model.n_layer - 2))
    ends = row_offsets(texts)[1:] - 1
    seen = capture(
        model, texts, layers=[layer], rows=ends, n_threads=n_threads, node=RESIDUAL_OUTPUT
    )[layer].astype(np.float64)
    own = seen[: len(names)]
    spread = own.std(axis=0)
    seen = (seen - own.mean(axis=0)) / np.maximum(spread, 1e-6 + 1e-3 * spread.mean())
    seen /= np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1e-12)
    return np.asarray(seen[len(names) :] @ seen[: len(names)].T, np.float32)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _overlaps(name: str, subjects: set[str]) -> bool:
    return any(name in subject or subject in name for subject in subjects)
