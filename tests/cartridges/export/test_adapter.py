from __future__ import annotations

import numpy as np
import pytest

from llamacart.cartridge import LayerMap
from llamacart.errors import InputError
from llamacart.export.adapter import (
    LowRank,
    check_travels,
    cut,
    exact_step,
    low_rank,
    own_rank,
    pad,
)
from llamacart.matrix import FactoredMatrix

D, E, K = 96, 64, 5
RNG = np.random.default_rng(0)
NEURONS = np.array([2, 3, 40, 41, 95], np.int32)
DOWN = RNG.normal(size=(E, D)).astype(np.float32)
H = RNG.normal(size=(30, D)).astype(np.float32)


def layer_map(bias: float) -> LayerMap:
    weight = RNG.normal(size=(K, D))
    return LayerMap.from_dense(1, NEURONS, weight, bias * np.ones(K))


def test_without_a_bias_it_is_the_cartridge() -> None:
    own = layer_map(0.0)
    adapter = low_rank(own, DOWN[:, NEURONS], 0.7, None)
    assert adapter is not None
    assert adapter.rank == K
    steered = H.copy()
    steered[:, NEURONS] += np.float32(0.7) * (H @ own.dense_delta(D).T)
    np.testing.assert_allclose(adapter.step(H), (steered - H) @ DOWN.T, atol=2e-4)
    np.testing.assert_allclose(
        adapter.step(H), exact_step(own, DOWN[:, NEURONS], 0.7, H), atol=2e-4
    )


def test_a_bias_is_folded_exactly_where_rows_have_a_constant() -> None:
    own, rows = layer_map(2.0), H.copy()
    rows[:, 7] = 4.0
    constant = np.zeros(D, np.float32)
    constant[7] = 0.25
    columns = DOWN[:, NEURONS]
    folded = low_rank(own, columns, 1.0, constant)
    left_out = low_rank(own, columns, 1.0, None)
    assert folded is not None
    assert left_out is not None
    assert folded.rank == K
    exact = exact_step(own, columns, 1.0, rows)
    np.testing.assert_allclose(folded.step(rows), exact, atol=1e-3)
    assert np.abs(left_out.step(rows) - exact).max() > 1


def test_a_mean_shift_has_rank_1() -> None:
    shift = LayerMap(0, NEURONS, None, np.ones(K, np.float32))
    constant = np.full(D, 1 / D, np.float32)
    adapter = low_rank(shift, DOWN[:, NEURONS], 0.5, constant)
    assert adapter is not None
    assert adapter.rank == 1
    np.testing.assert_allclose(
        adapter.step(np.ones((1, D), np.float32))[0],
        0.5 * DOWN[:, NEURONS].sum(axis=1),
        rtol=1e-4,
        atol=1e-5,
    )
    assert low_rank(shift, DOWN[:, NEURONS], 0.5, None) is None


@pytest.mark.parametrize("bias", [0.0, 2.0])
def test_factors_keep_their_rank(bias: float) -> None:
    factors = FactoredMatrix.quantize(RNG.normal(size=(K, 2)), RNG.normal(size=(2, D)))
    own = LayerMap(1, NEURONS, factors, np.full(K, bias, np.float32))
    rows, constant = H.copy(), np.zeros(D, np.float32)
    rows[:, 7], constant[7] = 4.0, 0.25
    columns = DOWN[:, NEURONS]
    adapter = low_rank(own, columns, 0.7, constant)
    assert adapter is not None
    assert adapter.rank == own_rank(own) == (3 if bias else 2)
    np.testing.assert_allclose(adapter.step(rows), exact_step(own, columns, 0.7, rows), atol=1e-3)


def test_factors_that_make_nothing_narrower_are_multiplied() -> None:
    factors = FactoredMatrix.quantize(RNG.normal(size=(K, K)), RNG.normal(size=(K, D)))
    own = LayerMap(1, NEURONS, factors, np.ones(K, np.float32))
    adapter = low_rank(own, DOWN[:, NEURONS], 1.0, None)
    assert adapter is not None
    assert adapter.rank == own_rank(own) == K
    np.testing.assert_array_equal(adapter.a, factors.dequantize())


@pytest.mark.parametrize("on_rows", [True, False])
def test_what_a_cut_loses_is_what_it_says(on_rows: bool) -> None:
    adapter = low_rank(layer_map(0.0), DOWN[:, NEURONS], 1.0, None)
    assert adapter is not None
    rows = H if on_rows else np.eye(D, dtype=np.float32)
    narrow, lost = cut(adapter, 2, H if on_rows else None)
    assert narrow.rank == 2
    whole = adapter.step(rows)
    measured = np.linalg.norm(narrow.step(rows) - whole) / np.linalg.norm(whole)
    assert 0.05 < lost < 1
    assert measured == pytest.approx(lost, rel=1e-4)


def test_a_cut_on_rows_is_the_best_of_its_rank() -> None:
    adapter = low_rank(layer_map(0.0), DOWN[:, NEURONS], 1.0, None)
    assert adapter is not None
    steps = adapter.step(H)
    _, lost = cut(adapter, 2, H)
    lengths = np.linalg.svd(steps, compute_uv=False) ** 2
    assert lost == pytest.approx(np.sqrt(lengths[2:].sum() / lengths.sum()), rel=1e-3)


def test_a_rank_that_is_enough_loses_nothing() -> None:
    adapter = LowRank(0, H[:3], DOWN[:, :3])
    assert cut(adapter, 3) == (adapter, 0.0)
    padded = pad(adapter, 8)
    assert (padded.a.shape, padded.b.shape) == ((8, D), (E, 8))
    np.testing.assert_allclose(padded.step(H), adapter.step(H), rtol=1e-4, atol=1e-4)
    assert pad(adapter, 2) is adapter


def test_what_waits_does_not_travel(make, tiny_model) -> None:
    check_travels(make(tiny_model))
    waiting = make(tiny_model, when=("Ostrel", "Veld"))
    with pytest.raises(InputError, match="'style' waits for 'Ostrel' and 1 more"):
        check_travels(waiting)
    check_travels(waiting, everywhere=True)
