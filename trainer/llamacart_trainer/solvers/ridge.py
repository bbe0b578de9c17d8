"""Ridge regression from the source activations to the target's at S."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import LinAlgError, cho_solve

from llamacart.errors import RecipeError
from llamacart_trainer.solvers.activations import BLOCK_ROWS, ActivationRows
from llamacart_trainer.solvers.cholesky import as_doubles, factor
from llamacart_trainer.solvers.problem import AffineMap, from_gap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart_trainer.solvers.problem import Prior, Problem

    Floats = NDArray[np.floating[Any]]
    Doubles = NDArray[np.float64]


def ridge(problem: Problem, penalty: float) -> AffineMap:
    """Minimise ‖X̄Wᵀ − Ȳ‖² + λ‖W‖² with b = μ_Y − W μ_X.

    As λ → ∞ the steered value becomes μ_Y whatever the input: mean replacement.

    Args:
        problem: Paired rows; X [N, D], Y [N, K] at S.
        penalty: λ > 0.

    Source: the paper's centred ridge; Hoerl and Kennard (1970).
    """
    return _fit(problem, penalty, "zero")


def ridge_identity(problem: Problem, penalty: float) -> AffineMap:
    """Minimise ‖X̄Wᵀ − Ȳ‖² + λ‖W − E_S‖² with b = μ_Y − W μ_X.

    Where the data say nothing, a neuron keeps its value. With V = W − E_S this is a plain ridge
    on the residual Ȳ − X̄_S. As λ → ∞ it becomes a mean shift.

    Args:
        problem: Paired rows; X [N, D], Y [N, K] at S.
        penalty: λ > 0.

    Source: ridge with a prior mean: Hoerl and Kennard (1970); Swindel (1976).
    """
    return _fit(problem, penalty, "identity")


def _fit(problem: Problem, penalty: float, prior: Prior) -> AffineMap:
    activations, neurons = problem.everything, problem.neurons
    if isinstance(activations, ActivationRows):
        weights = _of_rows(activations, residual_rows(activations, neurons, prior), penalty)
    else:
        scatter = activations.scatter_x()
        cross = residual_cross(scatter, activations.cross(neurons), neurons, prior)
        weights = solve_scatter(scatter.copy(), cross, penalty)
    delta = from_gap(weights, neurons, prior)
    bias = activations.mean_y[neurons] - activations.mean_x[neurons] - delta @ activations.mean_x
    return AffineMap(delta, bias)


def _of_rows(activations: ActivationRows, left: Floats, penalty: float) -> Doubles:
    if len(left) < activations.x.shape[1]:
        return solve_rows(activations.centred_x, left, penalty)
    cross = activations.cross_with(left)
    try:
        return _solve_scatter(as_doubles(activations.lower_x), cross, penalty)
    except LinAlgError:
        return _solve_exactly(activations.centred_x, left, penalty)


def residual_rows(
    activations: ActivationRows, neurons: NDArray[np.integer[Any]], prior: Prior
) -> Floats:
    """What is left for W − prior to explain, as rows: Ȳ − X̄ Pᵀ [N, K]."""
    if prior == "identity":
        return activations.centred_steps(neurons)
    return activations.centred_y(neurons)


def residual_cross(
    scatter: Doubles, cross: Doubles, neurons: NDArray[np.integer[Any]], prior: Prior
) -> Doubles:
    """The same as moments: X̄ᵀ(Ȳ − X̄ Pᵀ) [D, K] from X̄ᵀX̄ [D, D] and X̄ᵀȲ [D, K]."""
    return np.asarray(cross - scatter[:, neurons] if prior == "identity" else cross)


def solve_rows(x: Floats, y: Floats, penalty: float) -> Doubles:
    """Minimise ‖X Vᵀ − Y‖² + λ‖V‖² for centred X and Y.

    With N ≥ D the normal equations are solved (primal, Vᵀ = (XᵀX + λI)⁻¹ XᵀY), otherwise the
    kernel's (dual, Vᵀ = Xᵀ(XXᵀ + λI)⁻¹ Y): the smaller matrix is factored. Both give the same V.

    Args:
        x: Centred inputs [N, D].
        y: Centred targets [N, K].
        penalty: λ > 0.

    Returns:
        V [K, D].

    Raises:
        ValueError: λ is not above 0.
        RecipeError: λ is below the rounding of products in double.

    Source: Hoerl and Kennard (1970); dual form: Saunders, Gammerman and Vovk (1998).
    """
    n_rows, width = x.shape
    try:
        if n_rows >= width:
            scatter, cross = (x.T @ x).astype(np.float64), (x.T @ y).astype(np.float64)
            return _solve_scatter(scatter, cross, penalty)
        return _solve_kernel((x @ x.T).astype(np.float64), x, y, penalty)
    except LinAlgError:
        return _solve_exactly(x, y, penalty)


def solve_scatter(scatter: Doubles, cross: Doubles, penalty: float) -> Doubles:
    """V [K, D] of `solve_rows` from XᵀX [D, D], which is overwritten, and XᵀY [D, K].

    Only the lower triangle of XᵀX is looked at.

    Raises:
        RecipeError: λ is below the rounding of the products.
    """
    try:
        return _solve_scatter(scatter, cross, penalty)
    except LinAlgError as error:
        raise _lost(penalty) from error


def _solve_scatter(scatter: Doubles, cross: Doubles, penalty: float) -> Doubles:
    return np.asarray(cho_solve(_factor(scatter, penalty), cross).T, np.float64)


def _solve_kernel(gram: Doubles, x: Floats, y: Floats, penalty: float) -> Doubles:
    coefficients = cho_solve(_factor(gram, penalty), y.astype(np.float64))
    return np.asarray((x.T @ coefficients).T, np.float64)


def _solve_exactly(x: Floats, y: Floats, penalty: float) -> Doubles:
    """`solve_rows` by products in double.

    Some rows of some models are thousands of times longer than others. The rounding of their
    single products is then above a λ that suits the others.
    """
    n_rows, width = x.shape
    blocks = [slice(start, start + BLOCK_ROWS) for start in range(0, n_rows, BLOCK_ROWS)]
    if n_rows < width:
        gram = np.empty((n_rows, n_rows))
        for one in blocks:
            rows = x[one].astype(np.float64)
            for other in blocks:
                gram[one, other] = rows @ x[other].T.astype(np.float64)
        try:
            return _solve_kernel(gram, x, y, penalty)
        except LinAlgError as error:
            raise _lost(penalty) from error
    scatter, cross = np.zeros((width, width)), np.zeros((width, y.shape[1]))
    for some in blocks:
        rows = x[some].astype(np.float64)
        scatter += rows.T @ rows
        cross += rows.T @ y[some].astype(np.float64)
    return solve_scatter(scatter, cross, penalty)


def _factor(gram: Doubles, penalty: float) -> tuple[Doubles, bool]:
    if not penalty > 0:
        raise ValueError(f"penalty has value {penalty!r}; a number above 0 is needed")
    gram.flat[:: len(gram) + 1] += penalty
    return factor(gram)


def _lost(penalty: float) -> RecipeError:
    return RecipeError(
        f"penalty {penalty:g} is lost in the rounding of the activations' products; give a larger "
        "one or 'auto'"
    )
