"""The singular values of a fitted map, and maps of lower rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import svd, svdvals

from llamacart_trainer.solvers.problem import AffineMap, from_gap, gap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart_trainer.solvers.problem import Prior

    Integers = NDArray[np.integer[Any]]
    Doubles = NDArray[np.float64]


def spectrum(fitted: AffineMap, neurons: Integers, prior: Prior, limit: int = 32) -> Doubles:
    """Largest singular values of W − prior, descending, [≤ limit]."""
    weights = gap(fitted.delta, neurons, prior)
    return np.asarray(svdvals(weights)[:limit]) if weights.any() else np.zeros(0)


def truncated(
    fitted: AffineMap, neurons: Integers, prior: Prior, rank: int, mean_x: Doubles
) -> AffineMap:
    """W − prior replaced by the closest matrix of rank ≤ `rank`; the mean row lands as before.

    Closest by Frobenius (and spectral) norm: Eckart and Young (1936). The bias takes up what the
    dropped part did to the mean, b + (W − W_r) μ_X, so that means still map to means.

    Args:
        fitted: delta [K, D] and bias [K].
        neurons: S [K].
        prior: The one that the singular values are counted from.
        rank: At least 1.
        mean_x: μ_X [D].
    """
    weights = gap(fitted.delta, neurons, prior)
    if rank >= min(weights.shape):
        return fitted
    left, values, right = svd(weights, full_matrices=False)
    lower = (left[:, :rank] * values[:rank]) @ right[:rank]
    bias = fitted.bias + (weights - lower) @ mean_x
    return AffineMap(from_gap(lower, neurons, prior), bias)
