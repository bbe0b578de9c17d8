"""A constant step along a principal direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import eigh

from llamacart_trainer.solvers.problem import AffineMap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart_trainer.solvers.problem import Problem


def pca(problem: Problem, penalty: float = 0.0) -> AffineMap:
    """`paired_direction` where rows are paired, `pooled_direction` where they are not."""
    direction = paired_direction if problem.paired else pooled_direction
    return direction(problem, penalty)


def paired_direction(problem: Problem, penalty: float = 0.0) -> AffineMap:  # noqa: ARG001
    """W = E_S, b = v (vᵀm), v the top principal direction of the differences y − x at S.

    v [K] maximises Σ (vᵀ(y_n − x_n))² over unit vectors; differences are not centred, as if each
    pair were there in both orders. m = μ_Y − μ_X at S gives the sign and the length: b has the
    mean shift's own projection on v, and leaves out of it what lies across.

    Args:
        problem: Paired rows; X [N, D], Y [N, K] at S.
        penalty: Not looked at.

    Source: representation engineering (Zou et al., 2023), at S.
    """
    s, pairs = problem.neurons, problem.pairs
    cross = pairs.cross(s)[s]
    shift = problem.shift[s]
    scatter = pairs.scatter_x(s) + pairs.scatter_y(s) - cross - cross.T
    return _along_top(problem, scatter + pairs.n_x * np.outer(shift, shift))


def pooled_direction(problem: Problem, penalty: float = 0.0) -> AffineMap:  # noqa: ARG001
    """W = E_S, b = v (vᵀm), v the top principal direction of X and Y pooled at S.

    v [K] maximises the variance of the pooled rows, source and target weighing alike however
    many there are. Sign and length as in `paired_direction`.

    Args:
        problem: X [N, D] and Y [M, K] at S; rows need not be paired.
        penalty: Not looked at.

    Source: PCA on contrastive activations without pairs, as in Zou et al. (2023), at S.
    """
    s, pairs = problem.neurons, problem.pairs
    shift = problem.shift[s]
    covariance = pairs.scatter_x(s) / pairs.n_x + pairs.scatter_y(s) / pairs.n_y
    return _along_top(problem, covariance / 2 + np.outer(shift, shift) / 4)


def _along_top(problem: Problem, scatter: NDArray[np.floating[Any]]) -> AffineMap:
    last = len(scatter) - 1
    _, vectors = eigh(scatter, subset_by_index=[last, last])
    direction = vectors[:, 0]
    shift = problem.shift[problem.neurons]
    return AffineMap(problem.no_delta(), direction * float(direction @ shift))
