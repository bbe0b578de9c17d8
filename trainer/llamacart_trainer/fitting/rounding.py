"""Rounding a map to few levels so that its steps suffer least, not its weights.

Let E = delta − rounded [K, D], and H = X̄ᵀX̄ + ρI [D, D]. What rounding adds to the squared error of
the steps on the training rows, bias adjusted, is ‖E X̄ᵀ‖² + ρ‖E‖² = ‖E R‖² with H = R Rᵀ, R upper
triangular. Column j of E R is E_j R_jj + Σ_{i<j} E_i R_ij: columns are rounded from left to right,
and before column j is rounded, the errors made so far are paid back on it by adding
Σ_{i<j} E_i R_ij / R_jj. What is left of ‖E R‖² is then Σ_j R_jj² (rounding error of column j)².

ρ keeps errors out of directions that these rows hardly show and others may: without it the steps
on held-out rows would suffer for those on the training rows. `DAMPING` is what served held-out
rows best (French recipe, layers 0, 8 and 16, where a factor of 2 either way changes nothing).

Source: optimal brain quantization (Frantar and Alistarh, 2022) and GPTQ (Frantar et al., 2023), in
the form of Babai's nearest-plane algorithm, which needs one triangular factor and no inverse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import cholesky

from llamacart.file.storage import block_scales
from llamacart.matrix import BLOCK, QuantizedMatrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart.file.storage import Storage

    Floats = NDArray[np.float32]

DAMPING = 0.2
"""ρ as a share of the mean of the scatter's diagonal."""


def quantize_compensated(
    delta: NDArray[np.floating[Any]], storage: Storage, factor: Floats
) -> QuantizedMatrix:
    """Round delta [K, D] so that ‖E X̄ᵀ‖² + ρ‖E‖² is small, E being the rounding error.

    Args:
        delta: The map's W − E_S.
        storage: Levels to round to.
        factor: R [D, D] of the rows on which the map acts, from `upper_factor`.

    Raises:
        ValueError: D is not a multiple of 32, or a block's scale does not fit a 16-bit float.
    """
    n_rows, width = delta.shape
    if width % BLOCK:
        raise ValueError(f"width {width} is not a multiple of {BLOCK}")
    diagonal = np.diag(factor).copy()
    exact = np.asarray(delta, np.float64)
    errors = np.zeros((n_rows, width), np.float32)
    values = np.zeros((n_rows, width), np.int8)
    scales = np.zeros((n_rows, width // BLOCK), np.float16)
    for b, start in enumerate(range(0, width, BLOCK)):
        block = slice(start, start + BLOCK)
        # One product pays back all errors of the blocks before.
        owed = errors[:, :start] @ factor[:start, block]
        wanted = exact[:, block] + owed / diagonal[block]
        scales[:, b] = block_scales(wanted, storage, diagonal[block] ** 2)
        scale = scales[:, b].astype(np.float64)
        divisor = np.where(scale == 0, np.inf, scale)  # no level is left of such a block
        for j in range(BLOCK):
            column = start + j
            own = errors[:, start:column] @ factor[start:column, column] / diagonal[column]
            target = wanted[:, j] + own
            levels = np.rint(target / divisor).clip(storage.low, storage.high)
            values[:, column] = levels
            errors[:, column] = exact[:, column] - levels * scale
    return QuantizedMatrix(values, scales)


def upper_factor(scatter: NDArray[np.floating[Any]], damping: float = DAMPING) -> Floats:
    """R [D, D], upper triangular, with R Rᵀ = scatter + ρI.

    In float32: ρ is large, and R but weighs one rounding error against another.

    Args:
        scatter: X̄ᵀX̄ [D, D], of which only the lower triangle counts.
        damping: ρ as a share of the mean of the scatter's diagonal.
    """
    rho = max(damping * float(np.trace(scatter)) / len(scatter), float(np.finfo(np.float32).tiny))
    # Cholesky of the matrix with both axes reversed is lower triangular; reversed again, upper.
    # The transpose of a symmetric matrix is itself, in the order that LAPACK takes as it is.
    damped = np.array(scatter[::-1, ::-1], np.float32, order="C").T
    damped.T.flat[:: len(damped) + 1] += rho
    reversed_factor = cholesky(damped, lower=True, overwrite_a=True)
    return np.asarray(reversed_factor[::-1, ::-1])
