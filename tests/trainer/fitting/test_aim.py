"""What a cascade gathers of a layer."""

from __future__ import annotations

import numpy as np
import pytest

from llamacart_trainer.fitting.aim import Part
from llamacart_trainer.fitting.rows.rooms import Counts
from llamacart_trainer.fitting.training import train
from llamacart_trainer.recipe.tasks import prompt_task
from llamacart_trainer.recipe.turns import Exchange


def part(n: int, weights: list[float] | None) -> Part:
    x = np.arange(2.0 * n, dtype=np.float32).reshape(n, 2)
    given = None if weights is None else np.asarray(weights, np.float32)
    return Part(x, x[:1], np.zeros(n, np.bool_), given)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([None, None], None),
        ([[2, 3], None], [2, 3, 1, 1]),
        ([None, [2, 3]], [1, 1, 2, 3]),
        ([[2, 3], [4, 5]], [2, 3, 4, 5]),
    ],
)
def test_rows_without_weights_count_once(weights, expected) -> None:
    joined = Part.joined([part(2, own) for own in weights], Counts(4, 0, 2))
    assert joined.x.shape == (4, 2)
    assert (None if joined.weights is None else joined.weights.tolist()) == expected


def test_untouched_rows_come_last_whatever_comes_first() -> None:
    parts = [part(2, [1, 2]), part(1, [3])._replace(untouched=True, neutral=np.ones(1, np.bool_))]
    parts += [part(1, None), part(2, [4, 5])._replace(untouched=True)]
    joined = Part.joined(parts, Counts(3, 3, 4))
    assert joined.x[:, 0].tolist() == [0, 2, 0, 0, 0, 2]
    assert joined.weights is not None
    assert joined.weights.tolist() == [1, 2, 1, 3, 4, 5]
    assert joined.neutral.tolist() == [False, False, False, True, False, False]


def test_texts_of_neutral_rows_alone_beside_weighted_answers(tiny_model) -> None:
    """Some lanes then have weights and some have none; both ways of fitting see the same."""
    task = prompt_task(
        "Be brief.",
        name="x",
        answers=[Exchange(f"Why {n}?", "one two three four five") for n in range(3)],
        neutral=[f"{n} is left alone " * 20 for n in range(8)],
        target="activation",
        threshold=0.05,
        penalty=1.0,
        storage="q8_0",
    )
    by_rows, by_sums = (
        train(task, tiny_model, max_memory=size).cartridge.layers for size in (2**30, 1)
    )
    assert len(by_rows) == len(by_sums) > 0
    for own, other in zip(by_rows, by_sums, strict=True):
        assert np.array_equal(own.neurons, other.neurons)
        assert np.isfinite(own.bias).all()
        np.testing.assert_allclose(own.bias, other.bias, rtol=0.02, atol=3e-3)
