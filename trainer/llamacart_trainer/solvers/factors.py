"""The factors of low rank whose steps differ least from those of a fitted map.

With delta = W − E_S [K, D] and H = X̄ᵀX̄ + ρI over the rows of the fit, the matrix of rank r for
which ‖(delta − M) X̄ᵀ‖² + ρ‖delta − M‖² is least is P Pᵀ delta, where P [K, r] are the first
eigenvectors of delta H deltaᵀ. What is lost is the sum of the other eigenvalues. So U = P and V =
Pᵀ delta: U has orthonormal columns, and rounding errors of V reach the steps as they are. It takes
an eigendecomposition of K × K, and nothing of D × D.

With ρ = λ this is the ridge's own optimum under a limit of its rank.

Source: reduced-rank regression (Izenman, 1975), with a ridge (Mukherjee and Zhu, 2011); without
rows it is the truncated decomposition of Eckart and Young (1936).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.linalg import eigh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart_trainer.solvers.activations import Activations
    from llamacart_trainer.solvers.problem import AffineMap

    Doubles = NDArray[np.float64]

DAMPING = 0.02
"""ρ as a share of the mean of the diagonal of X̄ᵀX̄."""

AUTO_LOSS = 0.1
"""Share of the steps' length that a rank of `auto` may lose in a layer."""


@dataclass(frozen=True)
class Factors:
    """A map's matrix as U V.

    Attributes:
        left: U [K, r], of orthonormal columns.
        right: V [r, D].
        lost: Length of what they lose of the steps, damped as above, over the steps' length.
    """

    left: Doubles
    right: Doubles
    lost: float

    @property
    def rank(self) -> int:
        """R."""
        return len(self.right)


def factored(
    fitted: AffineMap, rows: Activations, rank: int | Literal["auto"], *, damping: float = DAMPING
) -> Factors | None:
    """A map's matrix in factors, or None where these would have as many numbers as the matrix.

    Args:
        fitted: delta [K, D] and bias [K].
        rows: Those that the map is to serve.
        rank: r, at least 1; `auto` takes the least that loses no more than `AUTO_LOSS`.
        damping: ρ as a share of the mean of the diagonal of X̄ᵀX̄.
    """
    delta = np.asarray(fitted.delta, np.float64)
    n_rows, width = delta.shape
    most = (n_rows * width - 1) // (n_rows + width)
    if most < 1 or not delta.any() or (rank != "auto" and rank > most):
        return None
    energy = rows.scatter_steps(delta) + damping * rows.variance_x() * (delta @ delta.T)
    lengths, axes = eigh(energy)
    lengths, axes = lengths[::-1].clip(0), axes[:, ::-1]
    total = float(lengths.sum())
    lost = np.sqrt(np.append(lengths[::-1].cumsum()[::-1][1:], 0) / max(total, 1e-300))
    if rank == "auto":
        rank = int(np.argmax(lost <= AUTO_LOSS)) + 1
        if rank > most:
            return None
    left = np.ascontiguousarray(axes[:, :rank])
    return Factors(left, left.T @ delta, float(lost[rank - 1]))
