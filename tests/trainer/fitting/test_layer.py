"""The fit of one layer: what it chooses, stores, reports and refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from llamacart.cartridge import LayerMap
from llamacart.errors import RecipeError
from llamacart.file.storage import STORAGES, narrowest, quantize
from llamacart.matrix import FactoredMatrix, QuantizedMatrix
from llamacart.values.steering import DenseMap
from llamacart_trainer.fitting.layer import fit_layer, fit_layer_from_moments
from llamacart_trainer.fitting.moments import Moments
from llamacart_trainer.fitting.rounding import quantize_compensated, upper_factor
from llamacart_trainer.fitting.settings import FitSettings, StorageName
from llamacart_trainer.solvers import SOLVERS
from llamacart_trainer.solvers.factors import AUTO_LOSS

SETTINGS = FitSettings(threshold=0.15, penalty=5.0)
UNPAIRED = [
    "mean-shift",
    "mean-replace",
    "pca",
    "ot-diagonal",
    "ot-sorted",
    "ot-gaussian",
    "ablate",
]


def step(layer_map: LayerMap, x: np.ndarray) -> np.ndarray:
    return DenseMap.of(layer_map, x.shape[1]).step(x)


def rows(seed: int = 0, n_rows: int = 200, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Correlated activations, and a target that is another affine function of them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_rows, width)) @ (rng.normal(size=(width, width)) / 8) + 0.3
    y = x + 0.2 * x @ rng.normal(size=(width, width)) / 8
    y += np.where(np.arange(width) < 6, 1.0, 0.0) + 0.05 * rng.normal(size=x.shape)
    return x.astype(np.float32), y.astype(np.float32)


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_every_solver_makes_a_map(name: str) -> None:
    x, y = rows()
    layer_map, report = fit_layer(3, x, y, replace(SETTINGS, solver=name))
    assert layer_map is not None
    assert (layer_map.layer, report.layer) == (3, 3)
    assert layer_map.bias.dtype == np.float32
    assert report.kept == len(layer_map.neurons) >= 6
    taken, ideal = step(layer_map, x), (y - x)[:, layer_map.neurons]
    cosine = (taken * ideal).sum() / np.linalg.norm(taken) / np.linalg.norm(ideal)
    assert report.fidelity == pytest.approx(cosine, abs=1e-5)
    force = np.linalg.norm(taken) / np.linalg.norm(ideal)
    assert report.force == pytest.approx(force, rel=1e-4)
    target = y[:, layer_map.neurons]
    rest = ((target - x[:, layer_map.neurons] - taken) ** 2).sum()
    r2 = 1 - rest / ((target - target.mean(axis=0)) ** 2).sum()
    assert report.r2 == pytest.approx(r2, abs=1e-4)
    assert report.penalty == (5.0 if SOLVERS[name].choose else 0.0)
    assert report.rounding < 0.02
    assert json.loads(json.dumps(report.as_json()))["kept"] == report.kept


@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"ot-sorted"}))
@pytest.mark.parametrize("paired", [True, False])
def test_moments_give_the_map_of_the_rows(name: str, paired: bool) -> None:
    if SOLVERS[name].needs_pairs and not paired:
        pytest.skip("needs pairs")
    x, y = rows()
    settings = replace(SETTINGS, solver=name)
    moments = Moments(64, paired=paired)
    for start in range(0, 200, 50):
        moments.add(x[start : start + 50], y[start : start + 50])
    one, mine = fit_layer(0, x, y, settings, paired=paired)
    other, theirs = fit_layer_from_moments(0, moments, settings)
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one.neurons, other.neurons)
    np.testing.assert_allclose(one.dense_delta(64), other.dense_delta(64), atol=5e-3)
    np.testing.assert_allclose(one.bias, other.bias, atol=5e-3)
    for figure in ("fidelity", "force", "r2"):
        assert getattr(mine, figure) == pytest.approx(getattr(theirs, figure), abs=2e-3)
    assert theirs.mean_step == pytest.approx(mine.mean_step, rel=0.1)


@pytest.mark.parametrize("name", UNPAIRED)
def test_solvers_that_need_no_pairs(name: str) -> None:
    x, y = rows()
    layer_map, report = fit_layer(0, x, y[:150], replace(SETTINGS, solver=name), paired=False)
    assert layer_map is not None
    assert report.r2 == 0
    if name not in ("ablate", "pca"):
        assert report.fidelity == pytest.approx(1, abs=1e-3)


def test_neutral_rows_choose_nothing() -> None:
    x, y = rows()
    still = np.tile(x[:50], (4, 1)) + 3
    both_x = np.vstack([x, still])
    neutral = np.arange(400) >= 200
    for name in ("mean-shift", "ot-gaussian"):
        settings = replace(SETTINGS, solver=name)
        alone, _ = fit_layer(0, x, y, settings)
        beside, _ = fit_layer(0, both_x, y, settings, neutral=neutral)
        assert alone is not None
        assert beside is not None
        np.testing.assert_array_equal(alone.neurons, beside.neurons)
        np.testing.assert_allclose(alone.bias, beside.bias, atol=0.02)
    alone, _ = fit_layer(0, x, y, SETTINGS)
    beside, _ = fit_layer(0, both_x, y, SETTINGS, neutral=neutral)
    assert alone is not None
    assert beside is not None
    np.testing.assert_array_equal(alone.neurons, beside.neurons)
    assert np.abs(step(beside, still)).mean() < 0.5 * np.abs(step(alone, still)).mean()
    moments = Moments(64)
    moments.add(both_x, y, neutral)
    summed, _ = fit_layer_from_moments(0, moments, SETTINGS)
    assert summed is not None
    np.testing.assert_allclose(summed.dense_delta(64), beside.dense_delta(64), atol=5e-3)
    everything_neutral, report = fit_layer(0, x, y[:0], SETTINGS, neutral=np.ones(200, bool))
    assert everything_neutral is None
    assert report.candidates == 0


@pytest.mark.parametrize("storage", [*STORAGES, "auto"])
def test_a_rank_makes_factors_under_which_the_mean_moves_as_before(storage: StorageName) -> None:
    x, y = rows()
    full, whole = fit_layer(0, x, y, SETTINGS)
    low, report = fit_layer(0, x, y, replace(SETTINGS, rank=3, storage=storage))
    assert full is not None
    assert low is not None
    assert isinstance(low.delta, FactoredMatrix)
    assert low.delta.shape == full.dense_delta(64).shape
    assert (low.delta.rank, report.rank, whole.rank) == (3, 3, 0)
    assert storage in ("auto", narrowest(low.delta.right).name)
    assert len(report.spectrum) == report.kept
    np.testing.assert_allclose(step(full, x).mean(axis=0), step(low, x).mean(axis=0), atol=1e-4)
    off = np.linalg.norm(step(low, x) - step(full, x)) / np.linalg.norm(step(full, x))
    assert 0 < off < report.cut + report.rounding
    assert 0.05 < report.cut < 1
    assert report.rounding < (0.02 if storage == "q8_0" else 0.2)


def test_an_automatic_rank_loses_little() -> None:
    x, y = rows()
    y = x + (x @ np.ones((64, 1))) @ np.linspace(-0.2, 0.3, 64)[None].astype(np.float32)
    low, report = fit_layer(0, x, y, replace(SETTINGS, rank="auto"))
    assert low is not None
    assert isinstance(low.delta, FactoredMatrix)
    assert (low.delta.rank, report.rank) == (1, 1)
    assert report.cut < AUTO_LOSS


def test_a_layer_whose_factors_would_be_no_smaller_is_whole() -> None:
    x, y = rows()
    full, _ = fit_layer(0, x, y, SETTINGS)
    low, report = fit_layer(0, x, y, replace(SETTINGS, rank=64))
    assert full is not None
    assert low is not None
    np.testing.assert_array_equal(low.dense_delta(64), full.dense_delta(64))
    assert (report.rank, report.cut) == (0, 0.0)


def test_automatic_penalty_reports_its_evidence() -> None:
    x, y = rows()
    groups = np.arange(200) // 10
    _, report = fit_layer(0, x, y, replace(SETTINGS, penalty="auto"), groups=groups)
    penalties, errors = zip(*report.curve, strict=True)
    assert report.penalty == penalties[int(np.argmin(errors))]
    moments = Moments(64)
    moments.add(x, y)
    _, summed = fit_layer_from_moments(0, moments, replace(SETTINGS, penalty="auto"))
    assert summed.penalty == pytest.approx(report.penalty, rel=20)
    _, shift = fit_layer(0, x, y, replace(SETTINGS, penalty="auto", solver="mean-shift"))
    assert (shift.penalty, shift.curve, shift.spectrum) == (0.0, (), ())


# Storage


@pytest.mark.parametrize("name", ["q5_0", "q4_0"])
def test_rounding_by_activations_beats_rounding_by_weights(name: str) -> None:
    both, _ = rows(1, n_rows=900)
    x, held = both[:600], both[600:]
    delta = 0.1 * np.random.default_rng(2).normal(size=(8, 64))
    centred = x - x.mean(axis=0)
    plain = quantize(delta, STORAGES[name])
    clever = quantize_compensated(delta, STORAGES[name], upper_factor(centred.T @ centred))
    assert narrowest(clever).name == name
    for sample in (centred, held - x.mean(axis=0)):
        errors = [np.linalg.norm(sample @ (m.dequantize() - delta).T) for m in (plain, clever)]
        assert errors[1] < 0.9 * errors[0]
    assert np.linalg.norm(plain.dequantize() - delta) < np.linalg.norm(clever.dequantize() - delta)


def test_uncorrelated_inputs_leave_nothing_to_pay_back() -> None:
    delta = np.random.default_rng(3).normal(size=(3, 64))
    for storage in STORAGES.values():
        rounded = quantize_compensated(delta, storage, upper_factor(np.eye(64)))
        step_size = np.abs(rounded.scales.astype(np.float64)).repeat(32, axis=1)
        inside = np.abs(rounded.values) < storage.high
        error = np.abs(rounded.dequantize() - delta)
        assert (error <= 0.5001 * step_size)[inside].all()


def test_the_factor_is_upper_and_close() -> None:
    x = np.random.default_rng(4).normal(size=(9, 16))  # singular
    factor = upper_factor(x.T @ x, 0.1)
    np.testing.assert_array_equal(factor, np.triu(factor))
    np.testing.assert_array_equal(factor, upper_factor(np.tril(x.T @ x), 0.1))
    damped = x.T @ x + 0.1 * np.trace(x.T @ x) / 16 * np.eye(16)
    np.testing.assert_allclose(factor @ factor.T, damped, atol=1e-5)


def test_a_width_that_is_no_multiple_of_a_block() -> None:
    with pytest.raises(ValueError, match="width 40"):
        quantize_compensated(np.ones((2, 40)), STORAGES["q4_0"], np.eye(40))


def test_storage_of_a_layer() -> None:
    x, y = rows()
    found = {}
    for name in (*STORAGES, "auto"):
        layer_map, report = fit_layer(0, x, y, replace(SETTINGS, storage=name))  # type: ignore[arg-type]
        assert layer_map is not None
        assert isinstance(layer_map.delta, QuantizedMatrix)
        found[name] = (narrowest(layer_map.delta).name, report.rounding)
        mean = step(layer_map, x).mean(axis=0)
        aim = (y - x).mean(axis=0)[layer_map.neurons]
        np.testing.assert_allclose(mean, aim, atol=1e-4)  # the bias takes up the mean error
    assert [found[name][0] for name in STORAGES] == list(STORAGES)
    assert found["q8_0"][1] < found["q5_0"][1] < found["q4_0"][1]
    fits = [name for name in STORAGES if found[name][1] <= 0.05]
    assert found["auto"] == found[fits[0]]


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "best"}, "solver has value 'best'"),
        ({"storage": "q2"}, "storage has value 'q2'"),
        ({"rank": 0}, "rank has value 0"),
        ({"rank": "some"}, "rank has value 'some'"),
        ({"penalty": 0.0}, "penalty has value 0.0"),
        ({"penalty": float("nan")}, "penalty has value nan"),
    ],
)
def test_settings_without_such_a_value(change: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        fit_layer(0, *rows(), replace(SETTINGS, **change))  # type: ignore[arg-type]


def test_what_a_solver_lacks() -> None:
    x, y = rows()
    for name in ("ridge", "ridge-identity"):
        with pytest.raises(RecipeError, match=f"layer 2: solver '{name}' needs rows that are pair"):
            fit_layer(2, x, y, replace(SETTINGS, solver=name), paired=False)
    moments = Moments(64)
    moments.add(x, y)
    with pytest.raises(RecipeError, match="solver 'ot-sorted' needs rows"):
        fit_layer_from_moments(0, moments, replace(SETTINGS, solver="ot-sorted"))
    with pytest.raises(RecipeError, match="200 source rows cannot be paired with 150"):
        fit_layer(0, x, y[:150], SETTINGS)
    mean_shift = replace(SETTINGS, solver="mean-shift")
    with pytest.raises(RecipeError, match="neutral rows need rows that are paired"):
        fit_layer(0, x, y, mean_shift, paired=False, neutral=np.ones(200, bool))
