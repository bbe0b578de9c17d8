"""Decoding, the KV cache, and what a context refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from llamacart.errors import ContextOverflowError, EngineError, InputError
from llamacart.hook.steering_hook import SteeringHook
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.passes.generate import greedy
from llamacart.values.batch import Batch
from llamacart.values.steering import Dose


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


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_rows_of_all_sequences_are_computed_once_for_them(
    tiny_path: Callable[..., Path], architecture: str
) -> None:
    beginning, ends = [1, *range(20, 100)], [[5, 6, 7], [9], [5, 6]]
    n = len(beginning)

    def texts(*, shared: int) -> Batch:
        """Each end behind the beginning, which is there once where it is shared."""
        rows = [
            (token, i, number, i == n + len(end) - 1)
            for number, end in enumerate(ends)
            for i, token in enumerate([*beginning, *end])
            if number == 0 or i >= shared
        ]
        also = {row: [1, 2] for row in range(shared)}
        return Batch(*map(list, zip(*rows, strict=True)), also=also)

    def logits(batch: Batch) -> list[np.ndarray]:
        with Context(model, n_ctx=512, n_batch=512, n_seq_max=len(ends)) as context:
            context.decode(texts(shared=n))  # what one batch shares, the next need not
            context.clear()
            context.decode(batch)
            return [context.logits(i).copy() for i in np.flatnonzero(batch.outputs)]

    with Model(str(tiny_path(architecture=architecture))) as model:
        once, thrice = logits(texts(shared=n)), logits(texts(shared=0))
    np.testing.assert_array_equal(once, thrice)


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


class TestSlots:
    """Copies, trims and saved states of sequences."""

    @pytest.fixture
    def context(self, tiny_model: Model) -> Iterator[Context]:
        with Context(tiny_model, n_ctx=256, n_batch=64, n_seq_max=4) as context:
            yield context

    def after(self, context: Context, sequence: int, start: int, n: int = 3) -> np.ndarray:
        """Logits after n more rows of the usual text at position `start`."""
        context.decode(rows(n, start=start, sequence=sequence))
        return context.logits(n - 1).copy()

    def test_a_copy_goes_on_as_its_source(self, context: Context) -> None:
        context.decode(rows(20))
        context.copy(0, 1, 12)
        assert context.holds(1, 12)
        assert not context.holds(1, 13)
        copied = self.after(context, 1, 12)
        context.remove(0, 12)
        np.testing.assert_allclose(self.after(context, 0, 12), copied, rtol=1e-5, atol=1e-5)

    def test_a_copy_shares_cells_and_outlives_its_source(self, context: Context) -> None:
        for start in range(0, 192, 64):
            context.decode(rows(64, start=start))
        context.copy(0, 1, 192)
        context.decode(rows(64, sequence=2))
        with pytest.raises(ContextOverflowError):
            context.decode(rows(1, start=64, sequence=2))
        context.remove(0)
        assert context.holds(1, 192)
        assert not context.holds(0, 1)
        with pytest.raises(ContextOverflowError):  # the cells are still the copy's
            context.decode(rows(1, start=64, sequence=2))
        context.remove(1)
        context.decode(rows(64, start=64, sequence=2))

    def test_a_copy_replaces_what_was_there(self, context: Context) -> None:
        context.decode(rows(20))
        context.decode(rows(30, sequence=1))
        context.copy(0, 1, 8)
        assert context.holds(1, 8)
        assert not context.holds(1, 9)
        context.copy(0, 1, 8)
        context.remove(1)
        assert not context.holds(1, 1), "cells were counted twice"
        context.copy(0, 1, 0)
        assert not context.holds(1, 1)
        context.copy(0, 0, 5)
        assert context.holds(0, 20), "a copy onto itself does nothing"

    def test_a_saved_state_comes_back_in_any_slot(self, context: Context) -> None:
        context.decode(rows(20))
        state = context.save(0)
        assert isinstance(state, bytes)
        expected = self.after(context, 0, 20)
        context.clear()
        context.decode(rows(30, sequence=3))
        assert context.restore(2, state)
        assert context.restore(3, state), "what was there is replaced"
        for sequence in (2, 3):
            assert context.holds(sequence, 20)
            assert not context.holds(sequence, 21)
            got = self.after(context, sequence, 20)
            np.testing.assert_allclose(got, expected, rtol=2e-2, atol=2e-2)

    def test_without_room_a_restored_slot_is_empty(self, context: Context) -> None:
        for start in range(0, 192, 64):
            context.decode(rows(64, start=start))
        state = context.save(0)
        context.decode(rows(9, sequence=1))
        assert not context.restore(1, state)
        assert not context.holds(1, 1)
        assert context.holds(0, 192)
        context.remove(0)
        assert context.restore(1, state)

    @pytest.mark.parametrize("size", [0, 3, 100, -1])
    def test_a_broken_state_leaves_the_slot_empty(self, context: Context, size: int) -> None:
        context.decode(rows(20))
        context.decode(rows(20, sequence=1))
        assert not context.restore(1, context.save(0)[:size])
        assert not context.holds(1, 1)
        assert context.holds(0, 20)

    def test_ids_out_of_range_are_errors_not_aborts(self, context: Context) -> None:
        for sequence in (-1, 4, 999):
            for call in (
                lambda s: context.copy(0, s, 1),
                lambda s: context.copy(s, 0, 1),
                lambda s: context.holds(s, 1),
                context.remove,
                context.save,
                lambda s: context.restore(s, b""),
            ):
                with pytest.raises(EngineError, match="is not among 0"):
                    call(sequence)

    def test_closed(self, tiny_model: Model) -> None:
        context = Context(tiny_model, n_ctx=64)
        context.close()
        for call in (context.remove, context.save, lambda s: context.holds(s, 1)):
            with pytest.raises(EngineError, match="closed"):
                call(0)


class TestSlidingWindow:
    """A gemma of window 64, whose cache gives masked cells away when no others are free."""

    WINDOW = 64

    @pytest.fixture(scope="class")
    @classmethod
    def gemma(cls, tiny_path: Callable[..., Path]) -> Iterator[Model]:
        with Model(str(tiny_path(architecture="gemma3", n_layer=7))) as model:
            yield model

    def reused(self, context: Context) -> None:
        """Sequence 0 of 200 rows, the first 5 of which lost their cells to sequence 1."""
        context.decode(rows(10, sequence=1))
        context.decode(rows(200))
        context.remove(1)
        context.decode(rows(10, sequence=1))
        # The search for free cells goes on where it stopped: at the masked ones of sequence 0.
        context.decode(rows(5, start=10, sequence=1))

    def test_what_a_window_still_needs(self, gemma: Model) -> None:
        with Context(gemma, n_ctx=256, n_batch=256, n_seq_max=3) as context:
            self.reused(context)
            fits = [n for n in range(1, 202) if context.holds(0, n)]
            assert fits == list(range(5 + self.WINDOW - 1, 201))
            context.copy(0, 2, fits[0])
            assert context.holds(2, fits[0])
            for sequence, n in ((0, 200), (2, fits[0])):
                context.decode(rows(3, start=n, sequence=sequence))
                logits = context.logits(2)
                np.testing.assert_allclose(logits, self.whole(gemma, n + 3), rtol=2e-2, atol=2e-2)

    def test_cells_that_two_sequences_share_are_not_given_away(self, gemma: Model) -> None:
        with Context(gemma, n_ctx=256, n_batch=256, n_seq_max=3) as context:
            context.decode(rows(10, sequence=1))
            context.decode(rows(200))
            context.copy(0, 2, 200)
            context.remove(1)
            context.decode(rows(10, sequence=1))
            context.decode(rows(5, start=10, sequence=1))
            assert all(context.holds(s, n) for s in (0, 2) for n in range(1, 201))

    def whole(self, model: Model, n: int) -> np.ndarray:
        with Context(model, n_ctx=256, n_batch=256) as context:
            context.decode(rows(n))
            return context.logits(n - 1).copy()

    def test_a_saved_state_holds_its_end_only(self, gemma: Model) -> None:
        with Context(gemma, n_ctx=512, n_batch=256, n_seq_max=2) as context:
            context.decode(rows(200))
            assert context.restore(1, context.save(0))
            assert context.holds(1, 200)
            assert context.holds(1, 199)
            assert not context.holds(1, 198)
            assert not context.holds(1, 100)
            context.remove(1, 199)
            context.decode(rows(4, start=199, sequence=1))
            np.testing.assert_allclose(
                context.logits(3), self.whole(gemma, 203), rtol=2e-2, atol=2e-2
            )

    def test_without_room_both_caches_are_empty(self, gemma: Model) -> None:
        with Context(gemma, n_ctx=256, n_batch=256, n_seq_max=3) as context:
            context.decode(rows(150))
            state = context.save(0)
            assert not context.restore(1, state)
            assert not context.holds(1, 1)
            context.decode(rows(100, sequence=2))
            assert context.holds(0, 150)
