from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llamacart_trainer.fitting.rows import emphasis
from llamacart_trainer.fitting.rows.emphasis import FLOOR, emphasise, row_weights
from llamacart_trainer.recipe.pairing import tie

CONTEXT, TEXT = [1, 40, 41, 42], [5, 6, 7, 8]
SAMPLE = tie([1, *TEXT], [*CONTEXT, *TEXT], [(i, i + 3) for i in range(1, 5)])
SAME = tie([1, *TEXT], [1, *TEXT], [(i, i) for i in range(1, 5)])
NEUTRAL = replace(SAME, neutral=True)


def test_weights_grow_with_the_distance() -> None:
    divergences = np.array([0.0, 1.0, 3.0])
    mean = divergences.mean()
    weights = row_weights(divergences, 2.0)
    assert weights.mean() == pytest.approx(1)
    expected = ((FLOOR + divergences / mean) / FLOOR) ** 2
    np.testing.assert_allclose(weights / weights[0], expected)


def test_equal_texts_count_once_each() -> None:
    np.testing.assert_array_equal(row_weights(np.zeros(3), 0.7), np.ones(3))


def test_rows_count_by_what_a_context_does_to_them(tiny_model) -> None:
    samples = [SAMPLE, NEUTRAL, SAME]
    found = emphasise(tiny_model, samples, 0.7)
    assert found[1] == NEUTRAL
    assert [replace(s, weights=None) for s in found] == samples
    weights = np.concatenate([found[0].weights, found[2].weights])
    assert weights.mean() == pytest.approx(1)
    # The same text on both sides differs nowhere.
    assert min(found[0].weights) > max(found[2].weights)


def test_parts_that_are_compared_apart_are_weighed_together(tiny_model, monkeypatch) -> None:
    samples = [SAMPLE, SAME, replace(SAMPLE, source=[1, 9, *TEXT[1:]])]
    whole = emphasise(tiny_model, samples, 1.0)
    monkeypatch.setattr(emphasis, "KEPT_BYTES", 2 * tiny_model.n_vocab * 5)
    for one, other in zip(whole, emphasise(tiny_model, samples, 1.0), strict=True):
        np.testing.assert_allclose(one.weights, other.weights, rtol=1e-3)


def test_no_exponent_computes_nothing() -> None:
    assert emphasise(None, [SAMPLE, NEUTRAL], 0.0) == [SAMPLE, NEUTRAL]
    assert emphasise(None, [NEUTRAL], 1.0) == [NEUTRAL]
