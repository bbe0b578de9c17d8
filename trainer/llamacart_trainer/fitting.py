"""The fit of one layer: choose neurons, solve, filter, round for storage, measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from llamacart.cartridge import LayerMap
from llamacart.errors import RecipeError
from llamacart_trainer.solvers import centered_ridge, impact, select_neurons

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart_trainer.moments import Moments


@dataclass(frozen=True)
class FitSettings:
    """What decides one layer's fit.

    Attributes:
        threshold: δ of the neuron selection.
        penalty: λ, or `auto`: chosen by cross-validation.
        solver: A key of `SOLVERS`.
        impact: Least mean step of a neuron that is kept.
        rank: Singular values of W − prior to keep; None keeps all.
        storage: How W − E_S is stored.
    """

    threshold: float
    penalty: float | Literal["auto"]
    solver: str = "ridge-identity"
    impact: float = 0.0
    rank: int | None = None
    storage: Literal["q8_0", "q5_0", "q4_0"] = "q8_0"


@dataclass(frozen=True)
class LayerReport:
    """Figures of one layer's fit.

    Attributes:
        layer: Index.
        candidates: Neurons selected by δ.
        kept: Those left by the impact filter.
        mean_step: Mean |step| over rows and kept neurons.
        fidelity: Cosine between the ideal step (target − input) and the applied step, over all
            rows at the kept neurons.
        force: Length of the applied step over that of the ideal one.
        penalty: The λ used.
        r2: Share of the targets' variance that the steered rows explain.
        spectrum: Largest singular values of W − prior, at most 32.
    """

    layer: int
    candidates: int
    kept: int
    mean_step: float = 0.0
    fidelity: float = 0.0
    force: float = 0.0
    penalty: float = 0.0
    r2: float = 0.0
    spectrum: tuple[float, ...] = ()


def fit_layer(
    layer: int,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    settings: FitSettings,
    *,
    neutral: NDArray[np.bool_] | None = None,  # noqa: ARG001
    paired: bool = True,  # noqa: ARG001
) -> tuple[LayerMap | None, LayerReport]:
    """Fit one layer.

    Args:
        layer: Index.
        x: Source activations [N, D].
        y: Target activations [N, D], paired by row; [M, D] where they are not.
        settings: Solver, δ, λ, and so on.
        neutral: Rows [N] with x = y that are there for locality: they count in regressions, not
            in the choice of S nor in the means of constant maps.
        paired: Whether row i of `x` belongs to row i of `y`.

    Returns:
        The map, or None where no neuron is left, and the figures.

    Raises:
        RecipeError: An activation is not finite.
    """
    for label, values in (("source", x), ("target", y)):
        if not np.isfinite(values).all():
            raise RecipeError(f"layer {layer}: a {label} activation is not finite")
    neurons = select_neurons(x, y, settings.threshold)
    candidates = len(neurons)
    if candidates == 0:
        return None, LayerReport(layer, 0, 0)
    prior: Literal["zero", "identity"] = "zero" if settings.solver == "ridge" else "identity"
    penalty = float(settings.penalty)
    fitted = centered_ridge(x, y[:, neurons], neurons, penalty, prior)
    keep = impact(x, fitted) >= settings.impact
    neurons = neurons[keep]
    if len(neurons) == 0:
        return None, LayerReport(layer, candidates, 0)
    weight = fitted.delta[keep]
    weight[np.arange(len(neurons)), neurons] += 1.0
    layer_map = LayerMap.from_dense(layer, neurons, weight, fitted.bias[keep])
    taken = step(layer_map, x)
    ideal = y[:, neurons] - x[:, neurons]
    lengths = float(np.linalg.norm(taken)), float(np.linalg.norm(ideal))
    return layer_map, LayerReport(
        layer=layer,
        candidates=candidates,
        kept=len(neurons),
        mean_step=float(np.abs(taken).mean()),
        fidelity=float((taken * ideal).sum()) / max(lengths[0] * lengths[1], 1e-30),
        force=lengths[0] / max(lengths[1], 1e-30),
        penalty=penalty,
    )


def fit_layer_from_moments(
    layer: int, moments: Moments, settings: FitSettings
) -> tuple[LayerMap | None, LayerReport]:
    """Fit one layer from the moments of its rows; see `fit_layer`."""
    raise RecipeError(f"layer {layer}: {moments.pairs.n_x} rows, {settings.solver}: not yet")


def step(layer_map: LayerMap, h: NDArray[np.float32]) -> NDArray[np.float32]:
    """Delta h + b for rows h [T, D], float32 [T, K]."""
    taken: NDArray[np.float32] = h @ layer_map.dense_delta(h.shape[1]).T + layer_map.bias
    return taken
