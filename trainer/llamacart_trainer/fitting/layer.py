"""The fit of one layer: choose neurons, solve, filter, round for storage, measure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llamacart.cartridge import LayerMap
from llamacart.errors import RecipeError
from llamacart.file.storage import STORAGES, quantize
from llamacart_trainer.fitting.rounding import quantize_compensated, upper_factor
from llamacart_trainer.solvers import (
    AffineMap,
    PenaltyCurve,
    Problem,
    assign_folds,
    find_solver,
    select_neurons,
    spectrum,
    truncated,
)
from llamacart_trainer.solvers.activations import ActivationRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart_trainer.fitting.moments import Moments
    from llamacart_trainer.solvers import Solver
    from llamacart_trainer.solvers.activations import Activations

StorageName = Literal["q8_0", "q5_0", "q4_0", "auto"]

ROUNDING_TOLERANCE = 0.05
"""Relative error of the steps that `storage = "auto"` allows a layer."""


@dataclass(frozen=True)
class FitSettings:
    """What decides one layer's fit.

    Attributes:
        threshold: δ of the neuron selection.
        penalty: λ, or `auto`: chosen by cross-validation.
        solver: A key of `SOLVERS`.
        impact: Least mean step of a neuron that is kept.
        rank: Singular values of W − prior to keep; None keeps all.
        storage: How W − E_S is stored; `auto` takes for each layer the narrowest blocks that
            change its steps by no more than `ROUNDING_TOLERANCE`.
    """

    threshold: float
    penalty: float | Literal["auto"]
    solver: str = "ridge-identity"
    impact: float = 0.0
    rank: int | None = None
    storage: StorageName = "q8_0"


@dataclass(frozen=True)
class LayerReport:
    """Figures of one layer's fit, over its rows without the neutral ones.

    Attributes:
        layer: Index.
        candidates: Neurons selected by δ.
        kept: Those left by the impact filter.
        mean_step: Mean |step| over rows and kept neurons.
        fidelity: Cosine between the ideal step (target − input) and the applied step, over all
            rows at the kept neurons. Where rows are not paired, between the mean steps.
        force: Length of the applied step over that of the ideal one; of the mean steps where
            rows are not paired.
        penalty: The λ used; 0 where the solver has none.
        r2: Share of the targets' variance that the steered rows explain; 0 where rows are not
            paired.
        rounding: Length of what rounding for storage changes in the steps, over their length.
        spectrum: Largest singular values of W − prior before truncation, at most 32.
        curve: (λ, held-out mean squared error) where λ was chosen by cross-validation.
    """

    layer: int
    candidates: int
    kept: int
    mean_step: float = 0.0
    fidelity: float = 0.0
    force: float = 0.0
    penalty: float = 0.0
    r2: float = 0.0
    rounding: float = 0.0
    spectrum: tuple[float, ...] = ()
    curve: tuple[tuple[float, float], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The figures as a JSON object, to six significant digits."""
        return {name: _rounded(value) for name, value in asdict(self).items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def fit_layer(
    layer: int,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    settings: FitSettings,
    *,
    neutral: NDArray[np.bool_] | None = None,
    paired: bool = True,
    groups: NDArray[np.integer[Any]] | None = None,
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
        groups: Number of the text that each row [N] is of: cross-validation keeps those
            together. None means that consecutive rows are kept together.

    Returns:
        The map, or None where no neuron is left, and the figures.

    Raises:
        RecipeError: An activation is not finite, rows that must be paired are not, or a setting
            has no such value.
    """
    for label, values in (("source", x), ("target", y)):
        if not np.isfinite(values).all():
            raise RecipeError(f"layer {layer}: a {label} activation is not finite")
    if paired and len(x) != len(y):
        raise RecipeError(
            f"layer {layer}: {len(x)} source rows cannot be paired with {len(y)} target rows"
        )
    everything = ActivationRows(x, y)
    pairs = everything
    if neutral is not None and neutral.any():
        if not paired:
            raise RecipeError(f"layer {layer}: neutral rows need rows that are paired")
        pairs = ActivationRows(x[~neutral], y[~neutral])
    return _Fit(layer, settings, pairs, everything, paired, groups).run()


def fit_layer_from_moments(
    layer: int, moments: Moments, settings: FitSettings
) -> tuple[LayerMap | None, LayerReport]:
    """Fit one layer from the moments of its rows.

    As `fit_layer`, but λ is chosen by generalised cross-validation, mean steps (and with them the
    impact filter) are those of normally distributed steps, and solvers that sort rows refuse.

    Args:
        layer: Index.
        moments: Of all its rows.
        settings: Solver, δ, λ, and so on.

    Raises:
        RecipeError: As `fit_layer`.
    """
    everything = moments.all_rows()
    if not (np.isfinite(everything.mean_x).all() and np.isfinite(everything.mean_y).all()):
        raise RecipeError(f"layer {layer}: an activation is not finite")
    return _Fit(layer, settings, moments.pairs, everything, moments.paired).run()


@dataclass(frozen=True)
class _Fit:
    """One layer's fit under way; see `fit_layer`."""

    layer: int
    settings: FitSettings
    pairs: Activations
    everything: Activations
    paired: bool
    groups: NDArray[np.integer[Any]] | None = None

    def run(self) -> tuple[LayerMap | None, LayerReport]:
        solver = self._solver()
        report = LayerReport(self.layer, 0, 0)
        if min(self.pairs.n_x, self.pairs.n_y) == 0:
            return None, report
        neurons = select_neurons(self.pairs, self.settings.threshold)
        report = replace(report, candidates=len(neurons))
        if len(neurons) == 0:
            return None, report
        problem = Problem(neurons, self.pairs, self.everything, self.paired)
        choice = self._penalty(solver, problem)
        fitted = solver(problem, choice.penalty)
        keep = self.pairs.mean_abs(fitted.delta, fitted.bias) >= self.settings.impact
        neurons, fitted = neurons[keep], AffineMap(fitted.delta[keep], fitted.bias[keep])
        if len(neurons) == 0:
            return None, report
        values = spectrum(fitted, neurons, solver.prior)
        if self.settings.rank is not None:
            rank, mean_x = self.settings.rank, self.everything.mean_x
            fitted = truncated(fitted, neurons, solver.prior, rank, mean_x)
        layer_map = self._stored(neurons, fitted)
        report = replace(
            report,
            kept=len(neurons),
            penalty=choice.penalty,
            spectrum=tuple(values.tolist()),
            curve=tuple(zip(choice.penalties, choice.errors, strict=True)),
        )
        return layer_map, self._measured(report, layer_map, fitted)

    def _solver(self) -> Solver:
        settings = self.settings
        solver = find_solver(settings.solver)
        where = f"layer {self.layer}: solver {settings.solver!r}"
        if solver.needs_pairs and not self.paired:
            raise RecipeError(f"{where} needs rows that are paired; use another pairing or solver")
        if solver.needs_rows and not isinstance(self.pairs, ActivationRows):
            raise RecipeError(f"{where} needs rows, and only their moments are in memory")
        if settings.storage not in (*STORAGES, "auto"):
            raise RecipeError(
                f"storage has value {settings.storage!r}; one of {', '.join(STORAGES)}, auto "
                "is needed"
            )
        if settings.rank is not None and settings.rank < 1:
            raise RecipeError(f"rank has value {settings.rank!r}; at least 1 is needed")
        if settings.penalty != "auto" and not settings.penalty > 0:
            raise RecipeError(
                f"penalty has value {settings.penalty!r}; a number above 0 or 'auto' is needed"
            )
        return solver

    def _penalty(self, solver: Solver, problem: Problem) -> PenaltyCurve:
        if solver.choose is None:
            return PenaltyCurve.fixed(0.0)
        if self.settings.penalty != "auto":
            return PenaltyCurve.fixed(float(self.settings.penalty))
        return solver.choose(problem, assign_folds(self.everything.n_x, self.groups))

    def _stored(self, neurons: NDArray[np.integer[Any]], fitted: AffineMap) -> LayerMap:
        """What is stored: delta in few levels, a bias under which the mean row moves as before."""
        own = LayerMap(self.layer, neurons.astype(np.int32), None, fitted.bias.astype(np.float32))
        if not fitted.delta.any():
            return own
        factor = None
        for storage in STORAGES.values():  # the narrowest first
            if self.settings.storage not in (storage.name, "auto"):
                continue
            if storage.name == "q8_0":
                delta = quantize(fitted.delta, storage)
            else:
                factor = upper_factor(self.everything.scatter_x()) if factor is None else factor
                delta = quantize_compensated(fitted.delta, storage, factor)
            bias = fitted.bias + (fitted.delta - delta.dequantize()) @ self.everything.mean_x
            own = replace(own, delta=delta, bias=bias.astype(np.float32))
            if self._rounding(own, fitted) <= ROUNDING_TOLERANCE:
                break
        return own

    def _rounding(self, stored: LayerMap, fitted: AffineMap) -> float:
        """Length of what rounding changes in the steps, over the length of the steps."""
        delta = stored.dense_delta(fitted.delta.shape[1])
        off = self.pairs.steps(delta - fitted.delta, stored.bias - fitted.bias)
        exact = self.pairs.steps(fitted.delta, fitted.bias)
        return float(np.sqrt(max(off, 0.0) / max(exact, 1e-30)))

    def _measured(self, report: LayerReport, layer_map: LayerMap, fitted: AffineMap) -> LayerReport:
        """The report with what the stored map does to the rows that differ."""
        pairs, neurons = self.pairs, layer_map.neurons
        delta, bias = layer_map.dense_delta(len(pairs.mean_x)), layer_map.bias
        taken = pairs.steps(delta, bias)
        r2 = 0.0
        if self.paired:
            product, ideal = pairs.agreement(delta, bias, neurons)
            total = float(np.trace(pairs.scatter_y(neurons)))
            r2 = 1 - (ideal - 2 * product + taken) / max(total, 1e-30)
        else:
            step = delta @ pairs.mean_x + bias
            shift = (pairs.mean_y - pairs.mean_x)[neurons]
            product, ideal, taken = float(step @ shift), float(shift @ shift), float(step @ step)
        return replace(
            report,
            mean_step=float(pairs.mean_abs(delta, bias).mean()),
            fidelity=float(product / max(np.sqrt(taken * ideal), 1e-30)),
            force=float(np.sqrt(taken / max(ideal, 1e-30))),
            r2=r2,
            rounding=self._rounding(layer_map, fitted),
        )
