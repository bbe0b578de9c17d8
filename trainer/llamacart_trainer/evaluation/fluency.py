"""How repetitive a token sequence is. Pure functions of token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

REPEATED_LENGTH = 4

LEAST_TOKENS = 4
"""A shorter text counts as a failure in every figure: nothing can repeat in it, so that it would
pass for fluent."""


def distinct(tokens: Sequence[int], n: int = 2) -> float:
    """Different n-grams over all n-grams; 0 where the text is too short to tell.

    Source: Li et al. (2016), arXiv:1510.03055.
    """
    if len(tokens) < max(n, LEAST_TOKENS):
        return 0.0
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams)


def repetition(tokens: Sequence[int], n: int = REPEATED_LENGTH) -> float:
    """Share of tokens covered by an n-gram that occurred before: loops go to 1, prose is near 0.

    It is 1 where the text is too short to tell.
    """
    if len(tokens) < max(n, LEAST_TOKENS):
        return 1.0
    seen: set[tuple[int, ...]] = set()
    covered = [False] * len(tokens)
    for i in range(len(tokens) - n + 1):
        gram = tuple(tokens[i : i + n])
        if gram in seen:
            covered[i : i + n] = [True] * n
        seen.add(gram)
    return sum(covered) / len(tokens)
