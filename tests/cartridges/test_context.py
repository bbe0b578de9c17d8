"""Decoding, the KV cache, and what a context refuses."""

from __future__ import annotations

import numpy as np
import pytest

from llamacart.context import Batch, Context
from llamacart.errors import ContextOverflowError, EngineError, InputError
from llamacart.generate import greedy
from llamacart.hook import SteeringHook
from llamacart.model import Model
from llamacart.steering import Dose


def rows(n: int, start: int = 0, sequence: int = 0) -> Batch:
    return Batch(
        [3 + (i * 7) % 200 for i in range(start, start + n)],
        list(range(start, start + n)),
        [sequence] * n,
        [i == n - 1 for i in range(n)],
    )


def test_chunks_equal_one_batch(tiny_model: Model) -> None:
    with Context(tiny_model, n_ctx=64, n_batch=32) as context:
        context.decode(rows(12))
        whole = context.logits(11).copy()
        context.clear()
        context.decode(rows(5))
        context.decode(rows(7, start=5))
        np.testing.assert_allclose(context.logits(6), whole, rtol=1e-2, atol=1e-2)


def test_removed_cells_are_free_again(tiny_model: Model) -> None:
    with Context(tiny_model, n_ctx=256, n_batch=256, n_seq_max=2) as context:
        assert context.n_ctx == 256
        context.decode(rows(200))
        with pytest.raises(ContextOverflowError, match="no 100 free cells"):
            context.decode(rows(100, sequence=1))
        context.remove(0)
        context.decode(rows(100, sequence=1))


def test_bad_batches_are_refused(tiny_model: Model) -> None:
    with Context(tiny_model, n_ctx=64, n_batch=8, n_outputs=2) as context:
        with pytest.raises(EngineError, match="9 rows"):
            context.decode(rows(9))
        with pytest.raises(EngineError, match="0 rows"):
            context.decode(Batch([], [], [], []))
        with pytest.raises(EngineError, match="3 rows want logits, the context has 2"):
            context.decode(Batch([5, 6, 7], [0, 1, 2], [0] * 3, [True] * 3))
        context.decode(rows(3))
        with pytest.raises(EngineError, match="has no logits"):
            context.logits(0)


def test_too_many_sequences(tiny_model: Model) -> None:
    with pytest.raises(InputError, match="n_seq_max has value 257"):
        Context(tiny_model, n_ctx=64, n_seq_max=257)


def test_closing_twice_is_harmless(tiny_model: Model) -> None:
    context = Context(tiny_model, n_ctx=64)
    context.close()
    context.close()


def test_greedy_of_many_equals_one_by_one(tiny_model: Model) -> None:
    prompts = [tiny_model.tokenize(text) for text in ("a", "hello there", "xyz" * 9)]
    together = greedy(tiny_model, prompts, [4, 0, 7])
    alone = [greedy(tiny_model, [p], n)[0] for p, n in zip(prompts, [4, 0, 7], strict=True)]
    assert together == alone
    assert together[1] == []
    assert len(together[0]) <= 4


def test_greedy_steers(tiny_model: Model) -> None:
    from llamacart.cartridge import Cartridge, LayerMap, Metadata

    weight = np.zeros((8, 96), np.float32)
    weight[np.arange(8), np.arange(8)] = 1
    maps = tuple(
        LayerMap.from_dense(layer, np.arange(8), weight, np.full(8, 3.0)) for layer in range(3)
    )
    dose = Dose(Cartridge(Metadata("x"), tiny_model.fingerprint, maps), 2.0)
    prompt = [tiny_model.tokenize("hello")]
    assert greedy(tiny_model, prompt, 8, steering=(dose,)) != greedy(tiny_model, prompt, 8)


def test_a_hook_too_small_for_the_batch_is_refused(tiny_model: Model) -> None:
    hook = SteeringHook(tiny_model, max_rows=2)
    with (
        Context(tiny_model, n_ctx=64, n_batch=8, hook=hook) as context,
        pytest.raises(EngineError, match="3 rows"),
    ):
        context.decode(rows(3))
