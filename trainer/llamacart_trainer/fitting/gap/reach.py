"""The fit of one layer that is to close a gap behind it, through its FFN.

A step Δh_S at K neurons S takes what is behind the FFN along the ways B_S, by B_S Δh_S. With the
gap a that is open there (see `llamacart_trainer.fitting.gap.equation`):

    S:     the K neurons with the largest Σ (B_iᵀ a)² / ‖B_i‖², each alone the best help;
    Δh_S:  the ridge solution of B_S Δh_S = a, which is a G with G = B_S (B_SᵀB_S + μI)⁻¹.

Where a gap is to say an object, what counts of B_S Δh_S is its part along a. K neurons reach only a
share of a, and G is lengthened until those parts make up Σ ‖a‖².

The map is then fitted as any other, from h to h_S + Δh_S. Everything up to here is linear in a, so
that sums of products of (h, a) are all that has to be kept of the rows.

Axes: N rows, n tied rows among them, D FFN width, E width of the residual stream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from llamacart_trainer.fitting.gap.stepped import SteppedScatter
from llamacart_trainer.fitting.layer import LayerFit, check_finite
from llamacart_trainer.fitting.settings import LayerReport
from llamacart_trainer.solvers.activations import ActivationRows
from llamacart_trainer.solvers.selection import ROUNDING

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart.cartridge import LayerMap
    from llamacart_trainer.fitting.moments import Moments, Scatter
    from llamacart_trainer.fitting.settings import FitSettings
    from llamacart_trainer.solvers.activations import Activations

    Floats = NDArray[np.floating[Any]]
    Doubles = NDArray[np.float64]
    Neurons = NDArray[np.integer[Any]]
    Found = tuple[LayerMap | None, LayerReport]

DAMPING = 1e-2
"""μ as a share of the mean of B_SᵀB_S's diagonal."""

LONGEST = 5.0
"""Most that steps are lengthened by."""


def choose_neurons(ways: Floats, gram: Floats, n_neurons: int) -> NDArray[np.int64]:
    """S [K], ascending: the neurons that alone could close most of the gap.

    A step along B_i closes (B_iᵀ a)² / ‖B_i‖² of ‖a‖².

    Args:
        ways: B [E, D].
        gram: Σ a aᵀ [E, E].
        n_neurons: K, or fewer where D has fewer columns that are not zero.

    Source: the selection rule of orthogonal matching pursuit (Pati et al., 1993), all at once.
    """
    ways = np.asarray(ways, np.float64)
    closed = np.einsum("ed,ed->d", ways, gram @ ways)
    lengths = np.einsum("ed,ed->d", ways, ways)
    useful = np.flatnonzero(lengths > 0)
    scores = closed[useful] / lengths[useful]
    best = np.argsort(-scores, kind="stable")[:n_neurons]
    return np.sort(useful[best])


def reaching(ways: Floats, neurons: Neurons) -> Doubles:
    """G [E, K]: what of a gap a [E] each neuron of S takes on, Δh_S = a G."""
    own = np.asarray(ways[:, neurons], np.float64)
    gram = own.T @ own
    gram.flat[:: len(gram) + 1] += DAMPING * float(np.trace(gram)) / len(gram)
    return np.asarray(cho_solve(cho_factor(gram, overwrite_a=True), own.T).T)


def lengthening(gram: Floats, own: Floats, factors: Doubles) -> float:
    """By how much steps are to be longer so that along their gaps they close them whole.

    Σ ‖a‖² / Σ ⟨a, B_S Gᵀ a⟩, and `LONGEST` at most.

    Args:
        gram: Σ a aᵀ [E, E].
        own: B_S [E, K].
        factors: G [E, K].
    """
    closed = float(np.einsum("ek,ek->", factors, gram @ np.asarray(own, np.float64)))
    return min(LONGEST, float(np.trace(gram)) / max(closed, 1e-30))


def fit_layer_to_gap(
    layer: int,
    x: NDArray[np.float32],
    gap: NDArray[np.float32],
    ways: NDArray[np.float32],
    settings: FitSettings,
    *,
    neutral: NDArray[np.bool_] | None = None,
    groups: NDArray[np.integer[Any]] | None = None,
    weights: NDArray[np.float32] | None = None,
) -> Found:
    """Fit one layer so that its steps close a gap.

    Args:
        layer: Index.
        x: Source activations [N, D].
        gap: a [n, E] of the rows that are not neutral, as much of it as is asked for.
        ways: B [E, D].
        settings: Solver, K, λ, and so on.
        neutral: Rows [N] that no step is wanted for: they count in regressions alone.
        groups: As in `fit_layer`.
        weights: As in `fit_layer`.

    Returns:
        The map, or None where there is no gap, and the figures.

    Raises:
        RecipeError: An activation is not finite, or a setting has no such value.
    """
    check_finite(layer, source=x, target=gap)
    tied = np.ones(len(x), np.bool_) if neutral is None else ~neutral
    if not tied.any():
        return None, LayerReport(layer, 0, 0)
    own = None if weights is None else weights[tied]
    counted = gap if own is None else gap * np.sqrt(own)[:, None]
    reach = _Reach.of(np.asarray(counted.T @ counted, np.float64), ways, settings)
    ideal = np.asarray(gap @ reach.factors.astype(gap.dtype))
    steps = np.zeros((len(x), ideal.shape[1]), ideal.dtype)
    steps[tied] = ideal
    pairs = ActivationRows(x if tied.all() else x[tied], ideal, own, reach.neurons)
    everything = ActivationRows(x, steps, weights, reach.neurons)
    layer_map, report = reach.fit(layer, settings, pairs, everything, groups)
    if layer_map is None:
        return None, report
    closed = _closed_in_rows(gap, pairs, ways, layer_map, settings.step)
    return layer_map, replace(report, closed=closed)


def fit_layer_to_gap_from_moments(
    layer: int, moments: Moments, ways: NDArray[np.float32], settings: FitSettings
) -> Found:
    """As `fit_layer_to_gap`, from the moments of (x, a); a of neutral rows is 0.

    What `fit_layer_from_moments` says of λ and mean steps holds here too.

    Raises:
        RecipeError: As `fit_layer_to_gap`.
    """
    scatter = moments.pairs
    check_finite(layer, source=scatter.mean_x, target=scatter.mean_y)
    if not scatter.n_x:
        return None, LayerReport(layer, 0, 0)
    gram = scatter.yy + scatter.n_y * np.outer(scatter.mean_y, scatter.mean_y)
    reach = _Reach.of(gram, ways, settings)
    pairs = SteppedScatter.of(scatter, reach.neurons, reach.factors)
    everything = SteppedScatter.of(moments.all_rows(), reach.neurons, reach.factors)
    layer_map, report = reach.fit(layer, settings, pairs, everything)
    if layer_map is None:
        return None, report
    closed = _closed_in_moments(scatter, ways, layer_map, settings.step)
    return layer_map, replace(report, closed=closed)


@dataclass(frozen=True)
class _Reach:
    """What takes a gap to S.

    Attributes:
        neurons: S [K].
        factors: G [E, K].
        ideal: Σ ‖a G‖².
    """

    neurons: NDArray[np.int64]
    factors: Doubles
    ideal: float

    @classmethod
    def of(cls, gram: Doubles, ways: Floats, settings: FitSettings) -> _Reach:
        neurons = choose_neurons(ways, gram, settings.neurons)
        factors = reaching(ways, neurons)
        if settings.lengthen:
            factors *= lengthening(gram, ways[:, neurons], factors)
        return cls(neurons, factors, float((factors * (gram @ factors)).sum()))

    def fit(
        self,
        layer: int,
        settings: FitSettings,
        pairs: Activations,
        everything: Activations,
        groups: NDArray[np.integer[Any]] | None = None,
    ) -> Found:
        """Fit the steps, unless they are as small as what differs between equal texts."""
        mean = float(pairs.mean_x @ pairs.mean_x)
        size = pairs.variance_x() * len(pairs.mean_x) + pairs.n_x * mean
        if self.ideal <= ROUNDING**2 * size:
            return None, LayerReport(layer, 0, 0)
        fit = LayerFit(layer, settings, pairs, everything, True, groups, self.neurons)
        return fit.run()


def _closed_in_rows(
    gap: Floats, pairs: ActivationRows, ways: Floats, layer_map: LayerMap, step: float
) -> float:
    """Share of the whole gap that the map's steps close; `gap` is `step` times the whole."""
    taken = pairs.taken(layer_map.dense_delta(pairs.x.shape[1]), layer_map.bias)
    whole = gap / np.float32(step)
    missed = whole - taken @ ways[:, layer_map.neurons].T
    counts = np.ones(len(gap)) if pairs.weights is None else pairs.weights
    before, after = (
        float(np.einsum("n,ne,ne->", counts, rows, rows, dtype=np.float64))
        for rows in (whole, missed)
    )
    return 1 - after / max(before, 1e-30)


def _closed_in_moments(scatter: Scatter, ways: Floats, layer_map: LayerMap, step: float) -> float:
    """The same from the moments of (h, a): Σ‖a − B_S p‖² with p = delta h + b, multiplied out."""
    own = np.asarray(ways[:, layer_map.neurons], np.float64)
    delta = np.asarray(layer_map.dense_delta(len(scatter.mean_x)), np.float64)
    mean = delta @ scatter.mean_x + layer_map.bias
    before = np.trace(scatter.yy) + scatter.n_y * (scatter.mean_y @ scatter.mean_y)
    both = delta @ scatter.xy + scatter.n_y * np.outer(mean, scatter.mean_y)
    taken = delta @ scatter.xx @ delta.T + scatter.n_y * np.outer(mean, mean)
    gained = 2 * step * (both * own.T).sum() - step**2 * ((own.T @ own) * taken).sum()
    return float(gained / max(before, 1e-30))
