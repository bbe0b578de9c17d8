"""How repetitive a token sequence is. Pure functions of token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

REPEATED_LENGTH = 4


def distinct(tokens: Sequence[int], n: int = 2) -> float:
    """Different n-grams over all n-grams; 1 where nothing repeats or there is no n-gram.

    Source: Li et al. (2016), arXiv:1510.03055.
    """
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(tokens: Sequence[int], n: int = REPEATED_LENGTH) -> float:
    """Share of tokens covered by an n-gram that occurred before: loops go to 1, prose is near 0."""
    seen: set[tuple[int, ...]] = set()
    covered = [False] * len(tokens)
    for i in range(len(tokens) - n + 1):
        gram = tuple(tokens[i : i + n])
        if gram in seen:
            covered[i : i + n] = [True] * n
        seen.add(gram)
    return sum(covered) / len(tokens) if tokens else 0.0
