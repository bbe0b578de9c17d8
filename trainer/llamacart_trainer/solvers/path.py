"""Ridge at every λ from one decomposition, and the choice of λ by cross-validation.

With X̄ = U diag(√s) Qᵀ and z = QᵀX̄ᵀR, where R are the targets less the prior's prediction, the
ridge is V(λ)ᵀ = Q diag(1 / (s + λ)) z. Residuals, degrees of freedom, held-out errors and
singular values of V follow for any λ at the cost of a few small products.

Sources: Golub, Heath and Wahba (1979) for generalised cross-validation; the held-out residual of
a block, (I − H_BB)⁻¹ (y − ŷ)_B, is the block form of Allen's PRESS (1974).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import eigh, solve, svdvals

from llamacart_trainer.solvers.activations import ActivationRows
from llamacart_trainer.solvers.problem import PenaltyCurve
from llamacart_trainer.solvers.ridge import residual_cross, residual_rows
from llamacart_trainer.solvers.tridiagonal import TridiagonalPath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart_trainer.solvers.problem import Prior, Problem

    Floats = NDArray[np.floating[Any]]
    Doubles = NDArray[np.float64]
    Integers = NDArray[np.integer[Any]]

NULL = 1e-11
"""Eigenvalues under this share of the largest are taken for zero."""

FOLDS = 20
MAX_FOLD_ROWS = 4096
"""Above this many rows λ is chosen by GCV: the held-out blocks' own equations become the cost."""

DECADES = (-6.0, 1.0)
PER_DECADE = 3


@dataclass(frozen=True)
class RidgePath:
    """Ridge of V = W − prior at every λ.

    Attributes:
        eigenvalues: s [R], of X̄ᵀX̄, those above rounding, descending.
        basis: Q [D, R], orthonormal columns.
        loadings: z = QᵀX̄ᵀR [R, K].
        n_rows: N, each row as often as it counts.
        total: ‖R‖², the sum of squares at V = 0.
        left: U [N, R], orthonormal columns; None where rows are not in memory.
        targets: R [N, K]; None as above.
        constant: Roots of the rows' weights [N, 1]; None as above.
    """

    eigenvalues: Doubles
    basis: Doubles
    loadings: Doubles
    n_rows: float
    total: float
    left: Doubles | None = None
    targets: Doubles | None = None
    constant: Doubles | None = None

    @classmethod
    def of(cls, problem: Problem, prior: Prior) -> RidgePath:
        """Decompose a problem: XXᵀ [N, N] where N < D and rows are there, else XᵀX [D, D]."""
        activations, neurons = problem.everything, problem.neurons
        if isinstance(activations, ActivationRows):
            targets = np.asarray(residual_rows(activations, neurons, prior), np.float64)
            x, roots = np.asarray(activations.centred_x, np.float64), activations.roots
            return cls._of_rows(x, targets, activations.n_x, roots)
        scatter, cross = activations.scatter_x(), activations.cross(neurons)
        values, basis = _spectrum(scatter)
        total = float(np.trace(activations.scatter_y(neurons)))
        if prior == "identity":
            total += float(np.trace(scatter[np.ix_(neurons, neurons)]))
            total -= 2 * float(np.trace(cross[neurons]))
        loadings = basis.T @ residual_cross(scatter, cross, neurons, prior)
        return cls(values, basis, loadings, activations.n_x, total)

    @classmethod
    def _of_rows(
        cls, x: Doubles, targets: Doubles, n_rows: float, roots: Floats | None
    ) -> RidgePath:
        if len(x) < x.shape[1]:
            values, left = _spectrum(x @ x.T)
            basis = x.T @ left / np.sqrt(values)
        else:
            values, basis = _spectrum(x.T @ x)
            left = x @ basis / np.sqrt(values)
        loadings = np.sqrt(values)[:, None] * (left.T @ targets)
        total = float((targets**2).sum())
        constant = np.ones((len(x), 1)) if roots is None else np.asarray(roots, np.float64)
        return cls(values, basis, loadings, n_rows, total, left, targets, constant)

    def weights(self, penalty: float) -> Doubles:
        """V(λ) = W − prior [K, D]."""
        scaled = self.loadings / (self.eigenvalues + penalty)[:, None]
        return np.asarray((self.basis @ scaled).T)

    def singular_values(self, penalty: float) -> Doubles:
        """Of V(λ), descending; Q is orthonormal, so they are those of diag(1 / (s + λ)) z."""
        return np.asarray(svdvals(self.loadings / (self.eigenvalues + penalty)[:, None]))

    def default_penalties(self) -> Doubles:
        """See the function of that name."""
        return default_penalties(float(self.eigenvalues[0]) if len(self.eigenvalues) else 0.0)

    def residual(self, penalty: float) -> float:
        """‖R − X̄V(λ)ᵀ‖²."""
        shrunk = self.eigenvalues + penalty
        gain = 2 / shrunk - self.eigenvalues / shrunk**2
        return max(self.total - float(gain @ (self.loadings**2).sum(axis=1)), 0.0)

    def gcv(self, penalties: Floats) -> Doubles:
        """Generalised cross-validation error at each λ, per row and neuron.

        (RSS / N) / (1 − df / N)² with df = 1 + Σ s / (s + λ), the intercept included.
        """
        n_outputs = self.loadings.shape[1]
        errors = []
        for penalty in penalties:
            freedom = 1 + float((self.eigenvalues / (self.eigenvalues + penalty)).sum())
            left_over = max(1 - freedom / self.n_rows, np.finfo(np.float64).eps)
            errors.append(self.residual(float(penalty)) / self.n_rows / n_outputs / left_over**2)
        return np.array(errors)

    def held_out(self, penalties: Floats, folds: Integers) -> Doubles:
        """k-fold error at each λ, per row and neuron: every row predicted without its fold.

        Exactly what refits on the other folds give, intercept and λ included, for rows of fold B:
        (I − H_BB)⁻¹ (R − R̂)_B with H = 11ᵀ/N + U diag(s / (s + λ)) Uᵀ. Where rows count
        differently, rows are times the roots of their weights, and those stand in place of 1.

        Args:
            penalties: λ.
            folds: Fold of each row [N].
        """
        if self.left is None or self.targets is None or self.constant is None:
            raise TypeError("folds need rows, not moments")
        projected = self.left.T @ self.targets
        errors = np.zeros(len(penalties))
        for fold in np.unique(folds):
            block = np.flatnonzero(folds == fold)
            left, targets = self.left[block], self.targets[block]
            mean = self.constant[block] @ self.constant[block].T / self.n_rows
            for i, penalty in enumerate(penalties):
                shrink = self.eigenvalues / (self.eigenvalues + penalty)
                own = np.eye(len(block)) - (left * shrink) @ left.T - mean
                residual = targets - (left * shrink) @ projected
                errors[i] += float((solve(own, residual, assume_a="pos") ** 2).sum())
        return np.asarray(errors / (self.n_rows * self.targets.shape[1]))


def default_penalties(top: float) -> Doubles:
    """λ from almost none to almost the limit, as shares of the largest eigenvalue."""
    low, high = DECADES
    return (top or 1.0) * np.logspace(low, high, round((high - low) * PER_DECADE) + 1)


def _spectrum(gram: Doubles) -> tuple[Doubles, Doubles]:
    """Eigenvalues above rounding, descending, and their vectors as columns."""
    values, vectors = eigh(gram, driver="evd")  # by dividing and conquering, twice as fast
    kept = values > NULL * max(float(values[-1]), np.finfo(np.float64).tiny)
    return np.asarray(values[kept][::-1]), np.asarray(vectors[:, kept][:, ::-1])


def assign_folds(n_rows: int, groups: Integers | None = None, n_folds: int = FOLDS) -> Integers:
    """Fold of each row [N]: whole groups, or consecutive blocks of rows where there are none.

    Rows of one text resemble each other; apart in two folds, they would give each other away.

    Args:
        n_rows: N, each row as often as it counts.
        groups: Number of the text (or pair of texts) that each row is of, [N].
        n_folds: At most this many.
    """
    if groups is None:
        return np.arange(n_rows) * n_folds // n_rows
    _, place = np.unique(groups, return_inverse=True)
    n_groups = int(place.max()) + 1
    return np.asarray(place * min(n_folds, n_groups) // n_groups)


def choose_penalty(problem: Problem, prior: Prior, folds: Integers | None = None) -> PenaltyCurve:
    """λ of least held-out error: k-fold where rows are in memory and few enough, else GCV.

    Args:
        problem: Paired rows.
        prior: Of the ridge.
        folds: Fold of each row [N]; None means consecutive blocks.
    """
    rows = problem.everything
    if isinstance(rows, ActivationRows) and rows.n_x <= MAX_FOLD_ROWS:
        folds = assign_folds(len(rows.x)) if folds is None else folds
        if len(np.unique(folds)) >= 2:
            path = RidgePath.of(problem, prior)
            penalties = path.default_penalties()
            return PenaltyCurve.least(penalties, path.held_out(penalties, folds), "k-fold")
    reduced = TridiagonalPath.of(problem, prior)
    values = reduced.eigenvalues()
    penalties = default_penalties(float(values[-1]))
    return PenaltyCurve.least(penalties, reduced.gcv(penalties, values), "gcv")


def spectrum_path(
    problem: Problem, penalties: Sequence[float], prior: Prior = "zero", limit: int = 32
) -> Doubles:
    """Largest singular values of W − prior at each λ, [P, ≤ limit], from one decomposition.

    Of the components of V, λ damps those most whose input variance s is under λ: it is a spectral
    filter s / (s + λ), soft where LASER (Sharma et al., 2024) cuts the rank.

    Args:
        problem: Paired rows or their moments.
        penalties: λ [P].
        prior: Of the ridge.
        limit: Most singular values to return.
    """
    path = RidgePath.of(problem, prior)
    return np.array([path.singular_values(penalty)[:limit] for penalty in penalties])
