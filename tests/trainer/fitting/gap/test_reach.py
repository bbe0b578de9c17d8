"""Gaps are closed through the FFN: which neurons, how far, and by rows as by their sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart.errors import RecipeError
from llamacart_trainer.fitting.gap.reach import (
    LONGEST,
    choose_neurons,
    fit_layer_to_gap,
    fit_layer_to_gap_from_moments,
    lengthening,
    reaching,
)
from llamacart_trainer.fitting.moments import Moments
from llamacart_trainer.fitting.settings import FitSettings
from llamacart_trainer.solvers import SOLVERS

D, E = 64, 16
SETTINGS = FitSettings(0.0, 1e-3, target="residual", neurons=12)


def rows(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Activations, gaps that are a linear function of them, and the ways B."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D)).astype(np.float32)
    ways = rng.normal(size=(E, D)).astype(np.float32)
    gap = (x @ rng.normal(size=(D, E)) / 8 + rng.normal(size=E)).astype(np.float32)
    return x, gap, ways


@given(seed=st.integers(0, 10_000))
def test_each_neuron_alone_would_close_more_than_any_that_is_left_out(seed: int) -> None:
    _, gap, ways = rows(seed, 20)
    chosen = choose_neurons(ways, gap.T @ gap, 5)
    left = []
    for way in ways.T:
        step = gap @ way / (way @ way)
        left.append(float(((gap - np.outer(step, way)) ** 2).sum()))
    others = np.setdiff1d(np.arange(D), chosen)
    assert list(chosen) == sorted(chosen)
    assert max(np.array(left)[chosen]) <= min(np.array(left)[others]) * (1 + 1e-5)


def test_neurons_without_a_way_are_never_chosen() -> None:
    _, gap, ways = rows(0)
    ways[:, 5:] = 0
    assert list(choose_neurons(ways, gap.T @ gap, 12)) == [0, 1, 2, 3, 4]


@given(seed=st.integers(0, 10_000))
def test_steps_are_those_of_a_ridge(seed: int) -> None:
    _, gap, ways = rows(seed, 20)
    neurons = choose_neurons(ways, gap.T @ gap, 12)
    own = ways[:, neurons].astype(np.float64)
    gram = own.T @ own
    damped = gram + 1e-2 * np.trace(gram) / 12 * np.eye(12)
    np.testing.assert_allclose(
        gap @ reaching(ways, neurons),
        np.linalg.solve(damped, own.T @ gap.T).T,
        rtol=1e-5,
        atol=1e-5,
    )


@given(seed=st.integers(0, 10_000))
def test_lengthened_steps_close_gaps_whole_along_them(seed: int) -> None:
    _, gap, ways = rows(seed, 20)
    neurons = choose_neurons(ways, gap.T @ gap, 6)
    factors = reaching(ways, neurons)
    longer = lengthening(gap.T @ gap, ways[:, neurons], factors)
    along = ((gap @ (longer * factors)) @ ways[:, neurons].T * gap).sum()
    assert longer > 1
    assert longer == LONGEST or along == pytest.approx((gap**2).sum(), rel=1e-4)


def test_steps_are_lengthened_where_that_is_asked_for() -> None:
    x, gap, ways = rows(1)
    found = {}
    for lengthen in (False, True):
        settings = FitSettings(0.0, 1e-6, target="object", neurons=8, lengthen=lengthen)
        layer_map, _ = fit_layer_to_gap(3, x, gap, ways, settings)
        assert layer_map is not None
        step = x @ layer_map.dense_delta(D).T + layer_map.bias
        found[lengthen] = ((step @ ways[:, layer_map.neurons].T) * gap).sum() / (gap**2).sum()
    assert found[False] < 0.8
    assert found[True] == pytest.approx(1, abs=0.05)


def test_a_gap_that_activations_tell_is_closed() -> None:
    x, gap, ways = rows(1)
    settings = FitSettings(0.0, 1e-6, target="residual", neurons=40)
    layer_map, report = fit_layer_to_gap(3, x, gap, ways, settings)
    assert layer_map is not None
    step = x @ layer_map.dense_delta(D).T + layer_map.bias
    missed = gap - step @ ways[:, layer_map.neurons].T
    assert report.closed == pytest.approx(1 - (missed**2).sum() / (gap**2).sum(), abs=1e-5)
    assert report.closed > 0.98
    assert report.fidelity > 0.99
    assert (report.candidates, report.kept) == (40, 40)


def test_half_of_a_gap_can_be_asked_for() -> None:
    x, gap, ways = rows(1)
    half = FitSettings(0.0, 1e-6, target="residual", neurons=40, step=0.5)
    _, report = fit_layer_to_gap(0, x, gap * np.float32(0.5), ways, half)
    assert report.closed == pytest.approx(0.75, abs=0.02)  # what is left is a quarter


def test_neutral_rows_stay() -> None:
    x, gap, ways = rows(2)
    rng = np.random.default_rng(0)
    other = (rng.normal(size=(300, D)) * 0.3 + 2).astype(np.float32)
    both, neutral = np.concatenate([x, other]), np.repeat([False, True], 300)
    weights = np.where(neutral, 10, 1).astype(np.float32)

    def moved(**more: np.ndarray) -> float:
        layer_map, _ = fit_layer_to_gap(0, both, gap, ways, SETTINGS, neutral=neutral, **more)
        assert layer_map is not None
        return float(np.abs(other @ layer_map.dense_delta(D).T + layer_map.bias).mean())

    alone, _ = fit_layer_to_gap(0, x, gap, ways, SETTINGS)
    assert alone is not None
    free = float(np.abs(other @ alone.dense_delta(D).T + alone.bias).mean())
    assert moved() < free / 2
    assert moved(weights=weights) < moved()


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_of_rows_give_the_same_map(solver: str, weighted: bool) -> None:
    x, gap, ways = rows(3)
    x, neutral = np.concatenate([x, x[:200] + 1]), np.arange(500) >= 300
    weights = np.random.default_rng(1).uniform(0.2, 3, 500).astype(np.float32)
    settings = FitSettings(0.0, 0.1, solver, target="residual", neurons=12, step=0.7)
    own = weights if weighted else None
    moments = Moments(D, gaps=E)
    for start, end, first, last in ((0, 100, 0, 100), (100, 420, 100, 300), (420, 500, 300, 300)):
        part = None if own is None else own[start:end]
        moments.add(x[start:end], gap[first:last], neutral[start:end], part)
    if SOLVERS[solver].needs_rows:
        with pytest.raises(RecipeError, match="needs rows"):
            fit_layer_to_gap_from_moments(0, moments, ways, settings)
        return
    by_rows, report = fit_layer_to_gap(0, x, gap, ways, settings, neutral=neutral, weights=own)
    by_sums, summed = fit_layer_to_gap_from_moments(0, moments, ways, settings)
    assert by_rows is not None
    assert by_sums is not None
    np.testing.assert_array_equal(by_rows.neurons, by_sums.neurons)
    np.testing.assert_allclose(by_rows.dense_delta(D), by_sums.dense_delta(D), atol=2e-3)
    np.testing.assert_allclose(by_rows.bias, by_sums.bias, atol=2e-3)
    for name in ("fidelity", "force", "penalty", "r2", "closed"):
        assert getattr(summed, name) == pytest.approx(getattr(report, name), abs=2e-3), name


def test_a_row_that_counts_twice_is_two_rows() -> None:
    x, gap, ways = rows(4)
    weights = np.where(np.arange(300) < 50, 2, 1).astype(np.float32)
    weighted, report = fit_layer_to_gap(0, x, gap, ways, SETTINGS, weights=weights)
    twice, other = fit_layer_to_gap(
        0, np.concatenate([x, x[:50]]), np.concatenate([gap, gap[:50]]), ways, SETTINGS
    )
    assert weighted is not None
    assert twice is not None
    np.testing.assert_allclose(weighted.dense_delta(D), twice.dense_delta(D), atol=1e-3)
    np.testing.assert_allclose(weighted.bias, twice.bias, atol=1e-3)
    assert report.closed == pytest.approx(other.closed, abs=1e-4)


def test_where_nothing_is_missing_nothing_is_fitted() -> None:
    x, gap, ways = rows(5)
    assert fit_layer_to_gap(0, x, gap * np.float32(1e-6), ways, SETTINGS)[0] is None
    neutral = np.ones(300, np.bool_)
    assert fit_layer_to_gap(0, x, gap[:0], ways, SETTINGS, neutral=neutral)[0] is None
    moments = Moments(D, gaps=E)
    moments.add(x, gap[:0], neutral)
    assert fit_layer_to_gap_from_moments(0, moments, ways, SETTINGS)[0] is None


def test_a_gap_that_is_not_finite_is_refused() -> None:
    x, gap, ways = rows(6)
    gap[3, 2] = np.nan
    with pytest.raises(RecipeError, match="layer 4: a target activation is not finite"):
        fit_layer_to_gap(4, x, gap, ways, SETTINGS)


def test_penalty_is_counted_in_the_mean_variance() -> None:
    """Larger activations, smaller weights, the same steps."""
    x, gap, ways = rows(7)
    one, report = fit_layer_to_gap(0, x, gap, ways, SETTINGS)
    other, larger = fit_layer_to_gap(0, 8 * x, gap, ways, SETTINGS)
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one.dense_delta(D), 8 * other.dense_delta(D), atol=2e-3)
    assert report.penalty == larger.penalty == pytest.approx(SETTINGS.penalty)
