"""Closed-form fits of one layer's affine map. Pure functions of arrays.

Axes: N paired rows, D FFN width, K active neurons. X [N, D] are source activations, Y [N, K]
the target's at the active neurons S. Every solver returns the map in the form a cartridge
stores: delta = W − E_S [K, D] and bias b [K], so that the steered value is x_S + delta x + b.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.linalg import cho_factor, cho_solve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]

Prior = Literal["zero", "identity"]

ROUNDING = 1e-3


@dataclass(frozen=True)
class AffineMap:
    """delta = W − E_S [K, D] and bias b [K] of one layer."""

    delta: Floats
    bias: Floats

    def apply(self, x: Floats, neurons: NDArray[np.integer[Any]]) -> Floats:
        """Steered values at S for rows x [N, D]: x_S + delta x + b, shape [N, K]."""
        steered: Floats = x[:, neurons] + x @ self.delta.T + self.bias
        return steered


def ridge(x: Floats, y: Floats, penalty: float) -> Floats:
    """Minimise ‖X Vᵀ − Y‖² + λ‖V‖² for centred X and Y.

    With N ≥ D the normal equations are solved (primal, Vᵀ = (XᵀX + λI)⁻¹ XᵀY), otherwise the
    kernel's (dual, Vᵀ = Xᵀ(XXᵀ + λI)⁻¹ Y): the smaller matrix is factored. Both give the same V.

    Args:
        x: Centred inputs [N, D].
        y: Centred targets [N, K].
        penalty: λ > 0.

    Returns:
        V [K, D] in float64.

    Source: Hoerl and Kennard (1970); dual form: Saunders, Gammerman and Vovk (1998).
    """
    if not penalty > 0:
        raise ValueError(f"penalty has value {penalty!r}; a number above 0 is needed")
    n_rows, width = x.shape
    if n_rows < width:
        gram = (x @ x.T).astype(np.float64)
        gram.flat[:: n_rows + 1] += penalty
        coefficients = cho_solve(cho_factor(gram, overwrite_a=True), y.astype(np.float64))
        return np.asarray((x.T @ coefficients).T, np.float64)
    gram = (x.T @ x).astype(np.float64)
    gram.flat[:: width + 1] += penalty
    solved = cho_solve(cho_factor(gram, overwrite_a=True), (x.T @ y).astype(np.float64))
    return np.asarray(solved.T, np.float64)


def centered_ridge(
    x: Floats, y: Floats, neurons: NDArray[np.integer[Any]], penalty: float, prior: Prior
) -> AffineMap:
    """Minimise ‖X̄Wᵀ − Ȳ‖² + λ‖W − P‖² with b = μ_Y − W μ_X.

    P is the prior: 0 (`zero`, the paper's ridge) or E_S (`identity`: where the data say
    nothing, the neuron keeps its value). Substituting V = W − P turns both into a plain ridge on
    the residual Ȳ − X̄Pᵀ. As λ → ∞ the first becomes mean replacement and the second a mean shift.

    Args:
        x: Source activations [N, D].
        y: Target activations [N, K] at `neurons`, paired by row with `x`.
        neurons: S [K].
        penalty: λ > 0.
        prior: `zero` or `identity`.
    """
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    centred_x, centred_y = x - mean_x, y - mean_y
    diagonal = (np.arange(len(neurons)), neurons)
    if prior == "identity":
        delta = ridge(centred_x, centred_y - centred_x[:, neurons], penalty)
    else:
        delta = ridge(centred_x, centred_y, penalty)
        delta[diagonal] -= 1.0
    bias = mean_y - mean_x[neurons] - delta @ mean_x
    return AffineMap(delta, bias)


def select_neurons(x: Floats, y: Floats, threshold: float) -> NDArray[np.int64]:
    """Neurons whose share of the mean difference passes a threshold, ascending.

    With d = mean(Y) − mean(X) [D], neuron i is active where |d_i| / ‖d‖₂ > δ. None is where ‖d‖₂
    is under `ROUNDING` of the activations' own length: equal texts differ by that much from one
    batch to another.

    Args:
        x: Source activations [N, D].
        y: Target activations [N, D].
        threshold: δ ≥ 0.
    """
    difference = y.mean(axis=0, dtype=np.float64) - x.mean(axis=0, dtype=np.float64)
    norm = float(np.linalg.norm(difference))
    if norm <= ROUNDING * float(np.linalg.norm(np.abs(x).mean(axis=0, dtype=np.float64))):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.abs(difference) / norm > threshold)


def impact(x: Floats, fitted: AffineMap) -> Floats:
    """Mean size of the step each active neuron takes: mean over rows of |delta x + b|, [K]."""
    step: Floats = np.abs(x @ fitted.delta.T + fitted.bias).mean(axis=0)
    return step
