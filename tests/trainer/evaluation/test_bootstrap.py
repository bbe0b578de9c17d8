"""Intervals cover as often as they say, and paired differences see what intervals hide."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart_trainer.evaluation.bootstrap import Estimate, difference, estimate


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    hits = 0
    for trial in range(300):
        found = estimate(rng.exponential(size=60), seed=trial, resamples=400)
        hits += found.low <= 1.0 <= found.high
    assert 0.88 <= hits / 300 <= 0.98


def test_interval_of_equal_values_is_a_point() -> None:
    found = estimate([0.25] * 9)
    assert (found.value, found.low, found.high, found.n) == (0.25, 0.25, 0.25, 9)


def test_weights_and_median() -> None:
    assert estimate([1.0, 4.0], [3, 1]).value == pytest.approx(1.75)
    found = estimate([1.0, 2.0, 100.0], statistic="median")
    assert found.value == 2.0
    assert found.high == 100.0
    # A weight of 0 counts for nothing, in no resample.
    assert estimate([1.0, 50.0], [1, 0]).high == 1.0


def test_equal_seeds_give_equal_intervals() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert estimate(values, seed=3) == estimate(values, seed=3)
    assert estimate(values, seed=3) != estimate(values, seed=4)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0]]])
def test_bootstrap_refuses(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite number"):
        estimate(values)
    with pytest.raises(ValueError, match="sum to 0"):
        estimate([1.0], [0.0])


def test_paired_difference_sees_what_the_intervals_hide() -> None:
    rng = np.random.default_rng(5)
    hard = rng.normal(3, 1, 40)  # what makes a prompt hard is the same for both
    one, other = estimate(hard - 0.1 + rng.normal(0, 0.05, 40)), estimate(hard)
    assert one.high > other.low  # their own intervals overlap
    apart = difference(one, other)
    assert apart is not None
    assert apart.value == pytest.approx(one.value - other.value)
    assert -0.15 < apart.low < apart.value < apart.high < -0.05


def test_paired_difference_of_equals_is_zero() -> None:
    values, weights = [1.0, 5.0, 2.0], [3.0, 0.0, 1.0]
    one = estimate(values, weights)
    assert difference(one, one) == Estimate(0.0, 0.0, 0.0, 3)
    shifted = difference(estimate([v + 2 for v in values], weights), one)
    assert shifted is not None
    assert (shifted.value, shifted.low, shifted.high) == pytest.approx((2, 2, 2))
    medians = [estimate(v, statistic="median") for v in ([1.0, 2.0, 9.0], [1.0, 2.0, 3.0])]
    apart = difference(*medians)
    assert apart is not None
    assert (apart.value, apart.high) == (0.0, 6.0)


def test_what_is_not_paired_has_no_difference() -> None:
    one = estimate([1.0, 2.0])
    assert difference(one, estimate([1.0, 2.0, 3.0])) is None
    assert difference(one, estimate([1.0, 2.0], statistic="median")) is None
    assert difference(one, Estimate(1.0, 0.0, 2.0, 2)) is None


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9), st.integers(0, 99))
def test_difference_changes_its_sign_with_its_sides(values: list[float], seed: int) -> None:
    one, other = estimate(values, seed=seed), estimate(values[::-1], seed=seed)
    there, back = difference(one, other, seed=seed), difference(other, one, seed=seed)
    assert there is not None
    assert back is not None
    assert (there.value, there.low, there.high) == pytest.approx(
        (-back.value, -back.high, -back.low)
    )
