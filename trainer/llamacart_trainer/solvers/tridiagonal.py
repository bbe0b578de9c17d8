"""Generalised cross-validation at every λ without eigenvectors.

Householder reflections make a symmetric G [n, n] tridiagonal, G = Q T Qᵀ. With M = (T + λI)⁻¹, a
λ costs a few sweeps over T, and the degrees of freedom need eigenvalues of T alone:

    primal, G = X̄ᵀX̄, c = QᵀX̄ᵀR [D, K]:  ‖R − X̄Vᵀ‖² = ‖R‖² − ⟨c, M c⟩ − λ‖M c‖²
    dual,   G = X̄X̄ᵀ, c = QᵀR [N, K]:    ‖R − X̄Vᵀ‖² = λ²‖M c‖²

The smaller G is taken. Eigenvectors would take several times as long, and λ needs none.

Sources: Elden (1977) for ridge by bidiagonalisation; Golub, Heath and Wahba (1979) for GCV.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import eigvalsh_tridiagonal, solveh_banded
from scipy.linalg.lapack import dormqr, dsytrd

from llamacart_trainer.solvers.activations import ActivationRows
from llamacart_trainer.solvers.ridge import residual_cross, residual_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart_trainer.solvers.problem import Prior, Problem

    Floats = NDArray[np.floating[Any]]
    Doubles = NDArray[np.float64]

WORK = 64
"""Columns of a block of LAPACK's, which sets how much room it is given."""


@dataclass(frozen=True)
class TridiagonalPath:
    """What GCV needs of a ridge problem.

    Attributes:
        diagonal: Of T [n].
        beside: Its other diagonal [n − 1].
        rotated: c [n, K].
        n_rows: N, each row as often as it counts.
        total: ‖R‖².
        dual: Whether T is of X̄X̄ᵀ.
    """

    diagonal: Doubles
    beside: Doubles
    rotated: Doubles
    n_rows: float
    total: float
    dual: bool

    @classmethod
    def of(cls, problem: Problem, prior: Prior) -> TridiagonalPath:
        """Reduce a problem: X̄X̄ᵀ where rows are there and fewer than D, else X̄ᵀX̄."""
        activations, neurons = problem.everything, problem.neurons
        if isinstance(activations, ActivationRows):
            left = residual_rows(activations, neurons, prior)
            total = float((left**2).sum(dtype=np.float64))
            if len(left) < activations.x.shape[1]:
                x = activations.centred_x
                gram = np.asarray(x @ x.T, np.float64)
                return cls(*_reduced(gram, left), activations.n_x, total, dual=True)
            gram, cross = activations.scatter_x(), activations.cross_with(left)
            return cls(*_reduced(gram, cross), activations.n_x, total, dual=False)
        scatter, cross = activations.scatter_x(), activations.cross(neurons)
        total = float(np.trace(activations.scatter_y(neurons)))
        if prior == "identity":
            total += float(np.trace(scatter[np.ix_(neurons, neurons)]))
            total -= 2 * float(np.trace(cross[neurons]))
        left = residual_cross(scatter, cross, neurons, prior)
        return cls(*_reduced(scatter.copy(), left), activations.n_x, total, dual=False)

    def eigenvalues(self) -> Doubles:
        """Of T [n], ascending; those that rounding has left below zero are zero."""
        return np.maximum(eigvalsh_tridiagonal(self.diagonal, self.beside), 0.0)

    def residual(self, penalty: float) -> float:
        """‖R − X̄V(λ)ᵀ‖²."""
        banded = np.zeros((2, len(self.diagonal)))
        banded[0], banded[1, :-1] = self.diagonal + penalty, self.beside
        solved = solveh_banded(banded, self.rotated, lower=True)
        length = float((solved**2).sum())
        if self.dual:
            return penalty**2 * length
        gained = float((self.rotated * solved).sum())
        return max(self.total - gained - penalty * length, 0.0)

    def gcv(self, penalties: Floats, eigenvalues: Doubles) -> Doubles:
        """The error at each λ, per row and neuron; see `RidgePath.gcv`."""
        n_outputs = self.rotated.shape[1]
        errors = []
        for penalty in map(float, penalties):
            freedom = 1 + float((eigenvalues / (eigenvalues + penalty)).sum())
            left_over = max(1 - freedom / self.n_rows, np.finfo(np.float64).eps)
            errors.append(self.residual(penalty) / self.n_rows / n_outputs / left_over**2)
        return np.array(errors)


def _reduced(gram: Doubles, cross: Floats) -> tuple[Doubles, Doubles, Doubles]:
    """Diagonals of T, and Qᵀ times `cross`; `gram` is overwritten.

    LAPACK keeps Q as the reflectors of a QR decomposition that leaves the first row alone.
    """
    n = len(gram)
    rotated = np.array(cross, np.float64, order="F")
    if n < 2:
        return np.diag(gram).copy(), np.zeros(0), rotated
    # The matrix is symmetric, so that its transpose is the same in LAPACK's order of numbers.
    reflectors, diagonal, beside, scales, info = dsytrd(
        gram.T, lower=1, lwork=WORK * n, overwrite_a=1
    )
    if info == 0:
        own = np.asfortranarray(reflectors[1:, :-1])
        room = WORK * max(1, rotated.shape[1])
        rotated[1:], _, info = dormqr("L", "T", own, scales, rotated[1:], room)
    if info != 0:
        raise np.linalg.LinAlgError(f"LAPACK says {info} where a matrix is made tridiagonal")
    return diagonal, beside, rotated
