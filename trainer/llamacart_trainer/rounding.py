"""Rounding a map to few levels so that its steps suffer least, not its weights.

Let E = delta − rounded [K, D], and H = X̄ᵀX̄ + ρI [D, D]. What rounding adds to the squared error of
the steps on the training rows, bias adjusted, is ‖E X̄ᵀ‖² + ρ‖E‖² = ‖E R‖² with H = R Rᵀ, R upper
triangular. Column j of E R is E_j R_jj + Σ_{i<j} E_i R_ij: columns are rounded from left to right,
and before column j is rounded, the errors made so far are paid back on it by adding
Σ_{i<j} E_i R_ij / R_jj. What is left of ‖E R‖² is then Σ_j R_jj² (rounding error of column j)².

For a ridge, ρ = λ makes this exactly the rise of its own objective above the minimum. It also
keeps errors out of the directions that the rows do not show, which cost nothing in training.

Source: optimal brain quantization (Frantar and Alistarh, 2022) and GPTQ (Frantar et al., 2023), in
the form of Babai's nearest-plane algorithm, which needs one triangular factor and no inverse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import cholesky

from llamacart.cartridge import BLOCK, QuantizedMatrix
from llamacart.storage import block_scales, round_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart.storage import Storage

    Doubles = NDArray[np.float64]

LEAST_DAMPING = 0.01
"""ρ is at least this share of the mean of the scatter's diagonal, or H might not be regular."""


def quantize_compensated(
    delta: NDArray[np.floating[Any]], storage: Storage, scatter: Doubles, damping: float = 0.0
) -> QuantizedMatrix:
    """Round delta [K, D] so that ‖E X̄ᵀ‖² + ρ‖E‖² is small, E being the rounding error.

    Args:
        delta: The map's W − E_S.
        storage: Levels to round to.
        scatter: X̄ᵀX̄ [D, D] of the rows on which the map acts.
        damping: ρ, raised to `LEAST_DAMPING` of the mean variance.

    Raises:
        ValueError: D is not a multiple of 32, or a block's scale does not fit a 16-bit float.
    """
    n_rows, width = delta.shape
    if width % BLOCK:
        raise ValueError(f"width {width} is not a multiple of {BLOCK}")
    factor = upper_factor(scatter, damping)
    diagonal = np.diag(factor).copy()
    exact = np.asarray(delta, np.float64)
    errors = np.zeros((n_rows, width))
    values = np.zeros((n_rows, width), np.int8)
    scales = np.zeros((n_rows, width // BLOCK), np.float16)
    for b, start in enumerate(range(0, width, BLOCK)):
        block = slice(start, start + BLOCK)
        # One product pays back all errors of the blocks before.
        owed = errors[:, :start] @ factor[:start, block]
        wanted = exact[:, block] + owed / diagonal[block]
        scales[:, b] = block_scales(wanted, storage, diagonal[block] ** 2)
        scale = scales[:, b].astype(np.float64)
        for j in range(BLOCK):
            column = start + j
            own = errors[:, start:column] @ factor[start:column, column] / diagonal[column]
            target = wanted[:, j] + own
            values[:, column] = round_blocks(target[:, None], scales[:, b], storage)[:, 0]
            errors[:, column] = exact[:, column] - values[:, column] * scale
    return QuantizedMatrix(values, scales)


def upper_factor(scatter: Doubles, damping: float) -> Doubles:
    """R [D, D], upper triangular, with R Rᵀ = scatter + ρI; see `quantize_compensated`."""
    damped = np.array(scatter, np.float64)
    mean = float(np.trace(damped)) / len(damped)
    rho = max(damping, LEAST_DAMPING * mean, np.finfo(np.float64).tiny)
    damped.flat[:: len(damped) + 1] += rho
    # Cholesky of the matrix with both axes reversed is lower triangular; reversed again, upper.
    reversed_factor = cholesky(damped[::-1, ::-1], lower=True, overwrite_a=True)
    return np.ascontiguousarray(reversed_factor[::-1, ::-1])
