"""The pairing `align`: rows tied along the monotone path on which two texts are most alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llamacart.passes.capture import capture, row_offsets
from llamacart_trainer.recipe.pairing import tie

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart_trainer.recipe.pairing import PairedRows

    Floats = NDArray[np.floating[Any]]

PAIRS_AT_ONCE = 256
"""Pairs whose activations are held at the same time."""


def align(
    model: Model,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    starts: Sequence[tuple[int, int]] | None = None,
    n_threads: int | None = None,
) -> Iterator[PairedRows]:
    """Tie the rows of each (source, target) pair of token sequences.

    Both texts run unsteered, in one pass up to the middle layer, whose activations speak of
    meaning more than of words. What all source rows, or all target rows, have in common (the
    language, say) is taken off before rows are compared. BOS is left out.

    Args:
        model: The model.
        pairs: Token ids.
        starts: For each pair its first rows that are tied; those behind BOS otherwise.
        n_threads: Threads for compute.
    """
    layer = model.n_layer // 2
    starts = starts or [(1, 1)] * len(pairs)
    for first in range(0, len(pairs), PAIRS_AT_ONCE):
        part = slice(first, first + PAIRS_AT_ONCE)
        group, begins = pairs[part], starts[part]
        sources, targets = (
            _rows(model, [p[n] for p in group], [b[n] for b in begins], layer, n_threads)
            for n in (0, 1)
        )
        for (source, target), (i0, j0), x, y in zip(group, begins, sources, targets, strict=True):
            path = monotone_path(1.0 - x @ y.T)
            yield tie(source, target, [(i + i0, j + j0) for i, j in path])


def monotone_path(cost: Floats) -> list[tuple[int, int]]:
    """One column for each row of a cost matrix [N, M], along the cheapest monotone path.

    Dynamic time warping: the path leads from (0, 0) to (N−1, M−1) in steps to the right, down or
    both, and minimises the sum of the costs it passes. Where it stays in a row, the cheapest of
    its columns there is taken, so that each source row counts once.

    Source: Sakoe and Chiba (1978), symmetric form without slope constraint.
    """
    n, m = cost.shape
    if n == 0 or m == 0:
        return []
    total = _accumulate(np.asarray(cost, np.float64))
    best = {n - 1: m - 1}
    i, j = n - 1, m - 1
    while i or j:
        steps = [(a, b) for a, b in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if a >= 0 and b >= 0]
        i, j = min(steps, key=lambda at: total[at])
        if i not in best or cost[i, j] < cost[i, best[i]]:
            best[i] = j
    return sorted(best.items())


def _accumulate(cost: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cost of the cheapest path to each cell, [N, M]."""
    total = np.empty_like(cost)
    total[0] = np.cumsum(cost[0])
    for i in range(1, len(cost)):
        above = total[i - 1].copy()
        above[1:] = np.minimum(above[1:], total[i - 1, :-1])
        # A path enters row i at some column k and runs right: min over k of above_k + Σ cost_k..j.
        run = np.cumsum(cost[i])
        before = np.concatenate(([0.0], run[:-1]))
        total[i] = run + np.minimum.accumulate(above - before)
    return total


def _rows(
    model: Model,
    sequences: Sequence[Sequence[int]],
    begins: Sequence[int],
    layer: int,
    n_threads: int | None,
) -> list[NDArray[np.float32]]:
    """Directions [T−b, D] of each sequence's rows from b on, about the mean of all of them."""
    starts = row_offsets(sequences)
    kept = np.concatenate(
        [np.arange(s + b, e) for s, b, e in zip(starts, begins, starts[1:], strict=False)]
    )
    h = capture(model, sequences, layers=[layer], rows=kept, n_threads=n_threads)[layer]
    h -= h.mean(axis=0)
    h /= np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-12)
    counts = [len(sequence) - b for sequence, b in zip(sequences, begins, strict=True)]
    return np.split(h, np.cumsum(counts)[:-1])
