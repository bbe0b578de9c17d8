"""Verdicts by simulation: seldom where contenders are equal, often where one is better."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from llamacart_trainer.evaluation import significance
from llamacart_trainer.evaluation.bootstrap import Estimate, Statistic, estimate
from llamacart_trainer.evaluation.compare import differences
from llamacart_trainer.evaluation.objective import Objective, best_alphas
from llamacart_trainer.evaluation.results import Point, Scores
from llamacart_trainer.evaluation.significance import (
    LEVEL,
    contrast,
    corrected,
    holm,
    mcnemar,
    newcombe,
    swap_test,
)

Floats = NDArray[np.float64]
OUTCOMES = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


def share(ones: int, n: int) -> Estimate:
    return estimate([1.0] * ones + [0.0] * (n - ones), statistic="share")


def test_twenty_of_twenty_is_not_better_than_nineteen() -> None:
    apart = contrast(share(20, 20), share(19, 20))
    assert apart
    assert apart.value == pytest.approx(0.05)
    assert (apart.p, apart.sign) == (1.0, 0)
    assert apart.low < 0 < apart.high
    # Six prompts more, and none fewer, are the fewest that can be told.
    told = [n for n in range(21) if (c := contrast(share(20, 20), share(n, 20))) and c.sign]
    assert told == list(range(15))


def test_a_share_has_an_interval_where_all_outcomes_are_equal() -> None:
    for ones in (0, 20):
        found = share(ones, 20)
        assert found.high - found.low == pytest.approx(0.161, abs=1e-3)
    whole = stats.binomtest(17, 20).proportion_ci(method="wilson")
    assert (share(17, 20).low, share(17, 20).high) == (whole.low, whole.high)
    with pytest.raises(ValueError, match="0 and 1"):
        estimate([0.5, 1.0], statistic="share")
    with pytest.raises(ValueError, match="0 and 1"):
        estimate([0.0, 1.0], [1.0, 2.0], statistic="share")


@given(OUTCOMES)
def test_paired_shares_change_their_sign_with_their_sides(pairs: list[tuple[bool, bool]]) -> None:
    x, y = (np.array(side, float) for side in zip(*pairs, strict=True))
    low, high = newcombe(x, y)
    assert -1 - 1e-9 <= low <= x.mean() - y.mean() <= high <= 1 + 1e-9
    assert low < high
    assert newcombe(y, x) == pytest.approx((-high, -low))
    assert mcnemar(x, y) == mcnemar(y, x)


def test_newcombes_own_example() -> None:
    """Table II of the paper, 36, 12, 2 and 0 of 50 prompts: 0.2000, from 0.0569 to 0.3404."""
    x = np.array([1.0] * 48 + [0.0] * 2)
    y = np.array([1.0] * 36 + [0.0] * 12 + [1.0] * 2)
    assert newcombe(x, y) == pytest.approx((0.0569, 0.3404), abs=2e-4)


def test_mcnemar_is_the_sign_test_of_discordant_prompts() -> None:
    x, y = np.array([1.0] * 9 + [0.0]), np.array([1.0] * 3 + [0.0] * 6 + [1.0])
    assert mcnemar(x, y) == pytest.approx(stats.binomtest(6, 7).pvalue)
    assert mcnemar(x, x) == 1.0


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_few_prompts_are_swapped_in_every_way(statistic: Statistic) -> None:
    rng = np.random.default_rng(2)
    x, y, w, v = (rng.random(7) for _ in range(4))

    def figure(values: Floats, weights: Floats) -> float:
        return float(
            np.median(values) if statistic == "median" else np.average(values, weights=weights)
        )

    seen = abs(figure(x, w) - figure(y, v))
    hits = 0
    for swapped in itertools.product([False, True], repeat=7):
        a, b = np.where(swapped, y, x), np.where(swapped, x, y)
        c, d = np.where(swapped, v, w), np.where(swapped, w, v)
        hits += abs(figure(a, c) - figure(b, d)) >= seen - 1e-12
    assert swap_test(x, y, w, v, statistic) == pytest.approx(hits / 2**7)


def test_many_prompts_agree_with_scipy() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=30)
    y = x + rng.normal(0.3, 0.8, size=30)
    found = stats.permutation_test(
        (x - y,), np.mean, permutation_type="samples", n_resamples=4999, rng=1
    )
    ones = np.ones(30)
    assert swap_test(x, y, ones, ones) == pytest.approx(found.pvalue, abs=0.02)


def test_texts_that_were_not_written_decide_nothing() -> None:
    """Weight 0 on both sides: no swap of such prompts changes anything, and none is NaN."""
    x, y = np.array([1.0, 0.0, 0.0]), np.array([2.0, 0.0, 0.0])
    w = np.array([1.0, 0.0, 0.0])
    assert swap_test(x, y, w, w) == 1.0
    assert swap_test(x, y, w, np.array([0.0, 1.0, 0.0])) > LEVEL


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    family = {"a": contrast(share(20, 20), share(10, 20)), "b": contrast(share(6, 6), share(0, 6))}
    whole = {name: each for name, each in family.items() if each}
    found = corrected(whole)
    assert found["b"].p == pytest.approx(1 / 32)
    assert found["b"].adjusted == pytest.approx(1 / 32)
    assert found["a"].adjusted == pytest.approx(2 * found["a"].p)


# --- whole tables -----------------------------------------------------------------------------

LABELS = ("a", "b", "c")
ALPHAS = (0.5, 0.8, 1.0, 1.4, 1.8)
PROMPTS = 24


def raw(values: Floats, statistic: Statistic = "mean", weights: Floats | None = None) -> Estimate:
    """A figure without an interval, which has no part in a verdict."""
    centre = float(np.average(values, weights=weights))
    kept = () if weights is None else tuple(weights)
    return Estimate(centre, centre, centre, len(values), tuple(values), kept, statistic)


def drawn(rng: np.random.Generator, hard: Floats, gain: float) -> Scores:
    """Figures of a contender; prompts are as hard for all, and `gain` makes it better."""
    words = rng.integers(8, 25, PROMPTS).astype(float)
    return Scores(
        behaviour=raw((rng.random(PROMPTS) < 0.7 + gain / 4).astype(float), "share"),
        nll=raw(hard + rng.normal(-gain, 0.5, PROMPTS), weights=words),
        distinct=raw(np.clip(rng.normal(0.8, 0.1, PROMPTS), 0, 1)),
        repetition=None,
        kl=raw(np.abs(hard / 3 + rng.normal(0, 0.3, PROMPTS))),
        written=raw(np.ones(PROMPTS), "share"),
    )


def table(rng: np.random.Generator, gain: float) -> set[tuple[str, int]]:
    """(field, sign) of the verdicts of one comparison; `gain` is the first contender's."""

    def points() -> list[Point]:
        hard = rng.normal(3, 1, PROMPTS)
        return [
            Point(label, "cartridge", alpha, drawn(rng, hard, gain if label == "a" else 0.0))
            for label in LABELS
            for alpha in ALPHAS
        ]

    best = best_alphas(points(), Objective())
    found = differences([p for p in points() if best[p.label] == p.alpha], LABELS)
    return {(name, c.sign) for row in found for name, c in row.figures.items() if c.sign}


@pytest.fixture
def no_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost most of a comparison and decide nothing."""

    def alone(one: Estimate, other: Estimate, *, seed: int) -> Estimate:
        value = one.value - other.value
        return Estimate(value, value, value, len(one.values))

    monkeypatch.setattr(significance, "difference", alone)


@pytest.mark.usefixtures("no_intervals")
def test_a_table_of_equals_holds_a_false_verdict_as_seldom_as_it_says() -> None:
    rng = np.random.default_rng(11)
    n = 300
    false = sum(bool(table(rng, 0.0)) for _ in range(n))
    # Three standard errors of such a simulation.
    assert false / n <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / n)


@pytest.mark.usefixtures("no_intervals")
def test_a_contender_that_is_better_is_told() -> None:
    rng = np.random.default_rng(12)
    found = [table(rng, 0.8) for _ in range(40)]
    assert sum(("nll", -1) in signs for signs in found) >= 36
    assert not any(("nll", 1) in signs for signs in found)
