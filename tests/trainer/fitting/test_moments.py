"""Sums over rows that stream past, against the rows themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamacart.errors import RecipeError
from llamacart_trainer.fitting.moments import Moments, Scatter
from llamacart_trainer.solvers.activations import ActivationRows

FIELDS = ("n_x", "n_y", "mean_x", "mean_y", "size_x", "xx", "xy", "yy")


def rows(seed: int, n_rows: int = 40, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_rows, width)) + 100, rng.normal(size=(n_rows, width)) - 50


def assert_same(one: Scatter, other: Scatter, atol: float = 1e-8) -> None:
    for name in FIELDS:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=atol, rtol=1e-9)


@settings(deadline=None)
@given(seed=st.integers(0, 999), cuts=st.lists(st.integers(0, 40), max_size=5))
def test_chunks_equal_one_pass(seed: int, cuts: list[int]) -> None:
    x, y = rows(seed)
    neutral = np.random.default_rng(seed).random(40) < 0.3
    whole, parts = Moments(6), Moments(6)
    whole.add(x, y[~neutral], neutral)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 40], strict=True):
        stays = neutral[start:stop]
        parts.add(x[start:stop], y[start:stop][~stays], stays)
    assert_same(parts.pairs, whole.pairs)
    wanted = np.where(neutral[:, None], x, y)
    assert_same(parts.all_rows(), Scatter.of(x, wanted))
    assert_same(whole.all_rows(), Scatter.of(x, wanted))


def test_a_large_mean_costs_no_digits() -> None:
    """Where Σx² − N μ² would have none left: deviation 1 about a mean of 1e4 in float32."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(4000, 3)) + 1e4).astype(np.float32)
    moments = Moments(3)
    for chunk in np.array_split(x, 16):
        moments.add(chunk, chunk)
    exact = np.cov(x.astype(np.float64).T, ddof=0) * len(x)
    np.testing.assert_allclose(moments.pairs.xx, exact, rtol=2e-3, atol=4)


def test_what_rows_say_moments_say() -> None:
    x, y = rows(1, 400)
    sample, sums = ActivationRows(x, y), Scatter.of(x, y)
    neurons = np.array([1, 4])
    rng = np.random.default_rng(2)
    delta, bias = rng.normal(size=(2, 6)), rng.normal(size=2) - 100
    for name, arguments in (
        ("scatter_x", (neurons,)),
        ("scatter_x", ()),
        ("scatter_y", (neurons,)),
        ("cross", (neurons,)),
        ("steps", (delta, bias)),
        ("agreement", (delta, bias, neurons)),
    ):
        mine, theirs = (getattr(s, name)(*arguments) for s in (sample, sums))
        np.testing.assert_allclose(mine, theirs, rtol=1e-8, atol=1e-6)
    mine, theirs = (s.mean_abs(delta, bias) for s in (sample, sums))
    np.testing.assert_allclose(mine, theirs, rtol=0.1)  # of a normal distribution, as these are


def test_unpaired_sides_may_differ_in_length() -> None:
    moments = Moments(6, paired=False)
    x, y = rows(3)
    moments.add(x[:10], y)
    moments.add(x[10:25], y[:3])
    moments.add(x[25:], y[:0])
    moments.add(x[:0], y[:0])
    assert (moments.pairs.n_x, moments.pairs.n_y) == (40, 43)
    np.testing.assert_allclose(moments.pairs.mean_x, x.mean(axis=0))
    np.testing.assert_allclose(moments.pairs.xx, ActivationRows(x, y).scatter_x(), atol=1e-8)
    assert not moments.pairs.xy.any()


def test_what_cannot_be_added() -> None:
    x, y = rows(4)
    with pytest.raises(ValueError, match="40 source rows cannot be paired with 39"):
        Moments(6).add(x, y[1:])
    with pytest.raises(ValueError, match="neutral rows must be paired"):
        Moments(6, paired=False).add(x, y[:0], np.ones(40, bool))


def test_saved_and_loaded(tmp_path: Path) -> None:
    x, y = rows(5)
    moments = Moments(6)
    moments.add(x, y[5:], np.arange(40) < 5)
    path = tmp_path / "layer.npz"
    moments.save(path)
    moments.save(path)
    assert list(tmp_path.iterdir()) == [path]
    back = Moments.load(path)
    assert back.neutral is not None
    for one, other in ((back.pairs, moments.pairs), (back.neutral, moments.neutral)):
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_damaged_file_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "layer.npz"
    with pytest.raises(RecipeError, match=r"layer\.npz"):
        Moments.load(path)
    moments = Moments(6)
    moments.add(*rows(6))
    moments.save(path)
    whole = path.read_bytes()
    for data in (b"", b"PK", whole[: len(whole) // 2], b"x" * 1000):
        path.write_bytes(data)
        with pytest.raises(RecipeError, match=r"moments '.*layer\.npz' cannot be read"):
            Moments.load(path)
    np.savez(path, **{"pairs.n": [1, 1]})
    with pytest.raises(RecipeError, match=r"layer\.npz"):
        Moments.load(path)
