"""What is missing behind a layer, and how its readers see it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart.llama.feed_forward import FeedForward, reader_norms
from llamacart.llama.model import Model
from llamacart_trainer.fitting.gap.equation import Gap, reading_metric

N, D, E = 7, 12, 5


def made(seed: int, normed: bool) -> tuple[Gap, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    down, norm, roots, x, h = (
        rng.normal(size=shape).astype(np.float32) for shape in ((E, D), E, E, (N, E), (N, D))
    )
    end = FeedForward(down, norm if normed else None, 1e-6 if normed else 0.0)
    return Gap(end, np.abs(roots) + np.float32(0.1)), x, h


@given(seed=st.integers(0, 10_000), normed=st.booleans())
def test_a_step_that_solves_the_equation_closes_the_gap(seed: int, normed: bool) -> None:
    """To first order: under a norm, a thousandth of the step closes a thousandth of the gap."""
    gap, x, h = made(seed, normed)
    rng = np.random.default_rng(seed + 1)
    share = 1e-3 if normed else 1.0
    r = x + gap.end.added(gap.end.output(h))
    wanted = (r + share * rng.normal(size=r.shape)).astype(np.float32)
    step = np.linalg.lstsq(gap.ways, gap.open(x, h, wanted).T, rcond=None)[0].T
    y = gap.end.output(h).astype(np.float64)
    moved = y + step.astype(np.float64) @ gap.end.down.T.astype(np.float64)
    if gap.end.norm is None:
        np.testing.assert_allclose(x + moved, wanted, atol=1e-3)
        return
    # The norm divides the step's part along y out again.
    rms = np.sqrt((y**2).mean(axis=1, keepdims=True) + gap.end.epsilon)
    along = ((moved - y) * y).mean(axis=1, keepdims=True) * y / rms**2
    expected = r + (moved - y - along) * gap.end.norm / rms
    length = np.sqrt((moved**2).mean(axis=1, keepdims=True) + gap.end.epsilon)
    found = x + moved * gap.end.norm / length
    away = np.abs((moved - y) / rms).max()
    np.testing.assert_allclose(found, expected, atol=20 * away**2 + 1e-5)


def test_rows_count_by_what_their_gaps_are_divided_by() -> None:
    for normed in (False, True):
        gap, x, h = made(0, normed)
        y = h @ gap.end.down.T
        length = np.sqrt(((y if normed else x + y) ** 2).mean(axis=1))
        np.testing.assert_allclose(gap.weights(x, h), 1 / length, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_the_metric_is_what_later_norms_see(
    tiny_path: Callable[..., Path], architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    with Model(str(tiny_path(architecture=architecture))) as model:
        weights = [[rng.normal(size=64), rng.normal(size=64)] for _ in range(3)]
        weights.append([rng.normal(size=64)])
        assert [len(own) for own in weights] == [len(reader_norms(model, k)) for k in range(4)]
        monkeypatch.setattr(
            "llamacart_trainer.fitting.gap.equation.reader_norms", lambda _model, k: weights[k]
        )
        sizes = [2.0, 3.0, 5.0]
        last = reading_metric(model, sizes, 2)
        np.testing.assert_allclose(last, weights[3][0] ** 2 / (weights[3][0] ** 2).mean())
        own = sum(w**2 for w in weights[2]) / 3 + weights[3][0] ** 2 / 5
        np.testing.assert_allclose(reading_metric(model, sizes, 1), own / own.mean())
