"""The fit of one layer: choose neurons, solve, filter, round for storage, measure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from llamacart.errors import RecipeError
from llamacart.file.storage import STORAGES
from llamacart_trainer.fitting.settings import LayerReport
from llamacart_trainer.fitting.storing import Storing
from llamacart_trainer.solvers import (
    AffineMap,
    PenaltyCurve,
    Problem,
    assign_folds,
    factored,
    find_solver,
    select_neurons,
    spectrum,
)
from llamacart_trainer.solvers.activations import ActivationRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart.cartridge import LayerMap
    from llamacart_trainer.fitting.moments import Moments
    from llamacart_trainer.fitting.settings import FitSettings
    from llamacart_trainer.solvers import Solver
    from llamacart_trainer.solvers.activations import Activations


def fit_layer(
    layer: int,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    settings: FitSettings,
    *,
    neutral: NDArray[np.bool_] | None = None,
    paired: bool = True,
    groups: NDArray[np.integer[Any]] | None = None,
    weights: NDArray[np.float32] | None = None,
) -> tuple[LayerMap | None, LayerReport]:
    """Fit one layer.

    Args:
        layer: Index.
        x: Source activations [N, D].
        y: Target activations of the rows that are not neutral [n, D], paired by row; [M, D] where
            they are not.
        settings: Solver, δ, λ, and so on.
        neutral: Rows [N] that are to stay as they are: they count in regressions, not in the
            choice of S nor in the means of constant maps.
        paired: Whether row i of `x` belongs to row i of `y`.
        groups: Number of the text that each row [N] is of: cross-validation keeps those
            together. None means that consecutive rows are kept together.
        weights: How often each row counts [N]; None means once. Only where rows are paired.

    Returns:
        The map, or None where no neuron is left, and the figures.

    Raises:
        RecipeError: An activation is not finite, rows that must be paired are not, or a setting
            has no such value.
    """
    check_finite(layer, source=x, target=y)
    tied = np.ones(len(x), np.bool_) if neutral is None else ~neutral
    n_tied = int(tied.sum())
    if paired and n_tied != len(y):
        raise RecipeError(
            f"layer {layer}: {n_tied} source rows cannot be paired with {len(y)} target rows"
        )
    if n_tied == len(x):
        everything = ActivationRows(x, y, weights)
        return LayerFit(layer, settings, everything, everything, paired, groups).run()
    if not paired:
        raise RecipeError(f"layer {layer}: neutral rows need rows that are paired")
    if not n_tied:
        return None, LayerReport(layer, 0, 0)
    pairs = ActivationRows(x[tied], y, None if weights is None else weights[tied])
    neurons = select_neurons(pairs, settings.threshold)
    steps = np.zeros((len(x), len(neurons)), x.dtype)
    steps[tied] = pairs.ideal(neurons)
    everything = ActivationRows(x, steps, weights, neurons)
    return LayerFit(layer, settings, pairs, everything, paired, groups, neurons).run()


def check_finite(layer: int, **rows: NDArray[np.floating[Any]]) -> None:
    """Refuse activations that are not finite, by the name of their side.

    Raises:
        RecipeError: One is not.
    """
    for label, values in rows.items():
        if not np.isfinite(values).all():
            raise RecipeError(f"layer {layer}: a {label} activation is not finite")


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
    return LayerFit(layer, settings, moments.pairs, everything, moments.paired).run()


@dataclass(frozen=True)
class LayerFit:
    """One layer's fit under way; see `fit_layer`.

    Attributes:
        layer: Index.
        settings: Solver, λ, and so on.
        pairs: The rows that differ.
        everything: Those and the neutral ones.
        paired: Whether rows are tied one to one.
        groups: Number of the text that each row [N] is of.
        neurons: S, where it has been chosen before; else δ chooses it.
    """

    layer: int
    settings: FitSettings
    pairs: Activations
    everything: Activations
    paired: bool
    groups: NDArray[np.integer[Any]] | None = None
    neurons: NDArray[np.integer[Any]] | None = None

    def run(self) -> tuple[LayerMap | None, LayerReport]:
        """The map, or None where no neuron is left, and the figures."""
        solver = self._solver()
        report = LayerReport(self.layer, 0, 0)
        if min(self.pairs.n_x, self.pairs.n_y) == 0:
            return None, report
        neurons = self.neurons
        if neurons is None:
            neurons = select_neurons(self.pairs, self.settings.threshold)
        report = replace(report, candidates=len(neurons))
        if len(neurons) == 0:
            return None, report
        problem = Problem(neurons, self.pairs, self.everything, self.paired)
        choice = self._penalty(solver, problem)
        fitted = solver(problem, choice.penalty)
        if self.settings.impact > 0:
            keep = self.pairs.mean_abs(fitted.delta, fitted.bias) >= self.settings.impact
            neurons, fitted = neurons[keep], AffineMap(fitted.delta[keep], fitted.bias[keep])
        if len(neurons) == 0:
            return None, report
        values = spectrum(fitted, neurons, solver.prior)
        rank = self.settings.rank
        factors = None if rank == "full" else factored(fitted, self.everything, rank)
        storing = Storing(self.settings.storage, self.pairs, self.everything)
        layer_map, rounding = storing.stored(self.layer, neurons, fitted, factors)
        report = replace(
            report,
            kept=len(neurons),
            rank=0 if factors is None else factors.rank,
            cut=0.0 if factors is None else factors.lost,
            rounding=rounding,
            penalty=choice.penalty / self._unit,
            spectrum=tuple(values.tolist()),
            curve=tuple(
                (penalty / self._unit, error)
                for penalty, error in zip(choice.penalties, choice.errors, strict=True)
            ),
        )
        return layer_map, self._measured(report, layer_map)

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
        if not (settings.rank in ("auto", "full") or isinstance(settings.rank, int)) or (
            isinstance(settings.rank, int) and settings.rank < 1
        ):
            raise RecipeError(
                f"rank has value {settings.rank!r}; at least 1, 'auto' or 'full' is needed"
            )
        if settings.penalty != "auto" and not settings.penalty > 0:
            raise RecipeError(
                f"penalty has value {settings.penalty!r}; a number above 0 or 'auto' is needed"
            )
        return solver

    def _penalty(self, solver: Solver, problem: Problem) -> PenaltyCurve:
        if solver.choose is None:
            return PenaltyCurve.fixed(0.0)
        if self.settings.penalty != "auto":
            return PenaltyCurve.fixed(float(self.settings.penalty) * self._unit)
        folds = None
        if isinstance(self.everything, ActivationRows):
            folds = assign_folds(len(self.everything.x), self.groups)
        return solver.choose(problem, folds)

    @cached_property
    def _unit(self) -> float:
        """What λ is counted in."""
        if not self.settings.closes_gap:
            return 1.0
        return max(self.everything.variance_x(), float(np.finfo(np.float64).tiny))

    def _measured(self, report: LayerReport, layer_map: LayerMap) -> LayerReport:
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
        )
