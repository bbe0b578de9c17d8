"""Affine maps that carry the source's distribution at S onto the target's. Pairs are not needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import eigh

from llamacart_trainer.solvers.activations import ActivationRows
from llamacart_trainer.solvers.problem import AffineMap, PenaltyCurve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart_trainer.solvers.problem import Problem

    Doubles = NDArray[np.float64]

FLAT = 1e-12
"""Variance, as a share of the squared mean activation, under which a neuron counts as constant."""


def ot_diagonal(problem: Problem, penalty: float = 0.0) -> AffineMap:  # noqa: ARG001
    """Each neuron of S by itself: x ↦ μ_Y + (σ_Y / σ_X)(x − μ_X).

    This is the optimal transport map between the two neurons' normal distributions of the same
    moments: of all maps that give mean μ_Y and deviation σ_Y, it moves least. Linear-AcT fits
    the slope by least squares over sorted rows instead (`ot_sorted`). That slope is
    σ_Y / σ_X times the correlation of the sorted rows, so never larger; the two agree where the
    distributions have one shape. A neuron that is constant in the source is only shifted.

    Args:
        problem: X [N, D] and Y [M, K] at S.
        penalty: Not looked at.

    Source: Rodriguez et al., Controlling language and diffusion models by transporting
    activations (2025); the map between normals: Dowson and Landau (1982).
    """
    s, pairs = problem.neurons, problem.pairs
    variance_x = np.diag(pairs.scatter_x(s)) / pairs.n_x
    variance_y = np.diag(pairs.scatter_y(s)) / pairs.n_y
    return _by_neuron(problem, variance_x, np.sqrt(np.maximum(variance_y, 0) * variance_x))


def ot_sorted(problem: Problem, penalty: float = 0.0) -> AffineMap:  # noqa: ARG001
    """Each neuron of S by itself: minimise Σ (ω x_(i) + β − y_(i))² over sorted rows.

    Sorting couples the two samples as optimal transport in one dimension does. With M ≠ N the
    target's quantiles are taken at the source's ranks, by linear interpolation.

    Args:
        problem: ActivationRows, not moments; X [N, D] and Y [M, K] at S.
        penalty: Not looked at.

    Source: Linear-AcT, Rodriguez et al. (2025).
    """
    pairs, s = problem.pairs, problem.neurons
    if not isinstance(pairs, ActivationRows):
        raise TypeError("sorting needs rows, not moments")
    x = np.sort(pairs.x[:, s], axis=0).astype(np.float64)
    y = np.sort(pairs.target(s), axis=0).astype(np.float64)
    if len(x) != len(y):
        ranks, own = (np.arange(n) + 0.5 for n in (len(x), len(y)))
        at = ranks / len(x) * len(y)
        y = np.stack([np.interp(at, own, column) for column in y.T], axis=1)
    centred = x - x.mean(axis=0)
    covariance = (centred * (y - y.mean(axis=0))).mean(axis=0)
    return _by_neuron(problem, (centred**2).mean(axis=0), covariance)


def _by_neuron(problem: Problem, variance: Doubles, covariance: Doubles) -> AffineMap:
    """Slopes covariance / variance [K] on the diagonal, means onto means."""
    s, pairs = problem.neurons, problem.pairs
    constant = variance <= FLAT * pairs.mean_x[s] ** 2 + np.finfo(np.float64).tiny
    slope = np.where(constant, 1.0, covariance / np.where(constant, 1.0, variance))
    delta = problem.no_delta()
    delta[np.arange(len(s)), s] = slope - 1.0
    return AffineMap(delta, pairs.mean_y[s] - slope * pairs.mean_x[s])


def ot_gaussian(problem: Problem, penalty: float) -> AffineMap:
    """S jointly: x_S ↦ μ_Y + A (x_S − μ_X), A = Σ_X^(−½)(Σ_X^½ Σ_Y Σ_X^½)^½ Σ_X^(−½).

    A [K, K] is symmetric and, of all maps that give mean μ_Y and covariance Σ_Y, moves least. It
    reads S only. Covariances are those of the rows plus (λ/N) I on both sides, which makes
    singular ones regular; as λ → 0 the moments are met exactly, as λ → ∞ A becomes I: a mean
    shift.

    Args:
        problem: X [N, D] and Y [M, K] at S.
        penalty: λ > 0.

    Source: Singh et al., Representation surgery: theory and practice of affine steering (2024),
    also known as MiMiC; the formula: Dowson and Landau (1982), Olkin and Pukelsheim (1982).
    """
    s, pairs = problem.neurons, problem.pairs
    noise = penalty / pairs.n_x * np.eye(len(s))
    root = _power(pairs.scatter_x(s) / pairs.n_x + noise, 0.5)
    inverse = _power(pairs.scatter_x(s) / pairs.n_x + noise, -0.5)
    middle = _power(root @ (pairs.scatter_y(s) / pairs.n_y + noise) @ root, 0.5)
    linear = inverse @ middle @ inverse
    delta = problem.no_delta()
    delta[:, s] = linear - np.eye(len(s))
    return AffineMap(delta, pairs.mean_y[s] - linear @ pairs.mean_x[s])


def transport_noise(
    problem: Problem,
    folds: NDArray[np.integer[Any]] | None = None,  # noqa: ARG001
) -> PenaltyCurve:
    """λ = tr Σ_X at S: the size of what N rows leave uncertain in an eigenvalue of Σ_X.

    There is no held-out error of a map without pairs, so nothing is cross-validated: λ/N is the
    trace over N, by which sampling spreads the eigenvalues (Marchenko and Pastur, 1967).

    Args:
        problem: X [N, D].
        folds: Not looked at.
    """
    trace = float(np.trace(problem.pairs.scatter_x(problem.neurons))) / problem.pairs.n_x
    return PenaltyCurve.fixed(max(trace, float(np.finfo(np.float64).tiny)))


def _power(matrix: Doubles, exponent: float) -> Doubles:
    """A symmetric positive matrix [K, K] to a power."""
    values, vectors = eigh(matrix)
    floor = max(values[-1], 0.0) * 1e-14 + np.finfo(np.float64).tiny
    return np.asarray((vectors * np.maximum(values, floor) ** exponent) @ vectors.T)
