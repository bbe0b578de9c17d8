"""A lane shows what an unbroken pass would, waits where it should, and ends when it is told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from llamacart.errors import EngineError, InputError
from llamacart.llama import ggml
from llamacart.llama.context import Context
from llamacart.llama.footprint import layers_bytes
from llamacart.llama.model import Model
from llamacart.llama.tap import Tap
from llamacart.machine import pages
from llamacart.passes.capture import capture
from llamacart.passes.lane import Errand, Lane, advance_together, lane_bytes, lane_threads
from llamacart.values.batch import Batch

TEXTS = [[1, 5, 9, 7], [1, 8], [1, 30, 31, 32, 33, 34]]


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
@pytest.mark.parametrize("copy", [False, True])
def test_lanes_side_by_side_equal_one_pass(
    tiny_path: Callable[..., Path], architecture: str, copy: bool
) -> None:
    with Model(str(tiny_path(architecture=architecture)), batch_invariant=True) as model:
        expected = capture(model, TEXTS)
        with (
            Lane(model, TEXTS[:1], layers=range(3), copy=copy) as one,
            Lane(model, TEXTS[1:], layers=range(3), copy=copy) as other,
        ):
            for layer in range(3):
                first, second = one.advance(), other.advance()
                np.testing.assert_array_equal(np.concatenate([first, second]), expected[layer])


@pytest.mark.parametrize("copy", [False, True])
def test_what_is_written_acts_on_later_layers(tiny_model: Model, copy: bool) -> None:
    expected = capture(tiny_model, TEXTS)
    with Lane(tiny_model, TEXTS, layers=[0, 2], copy=copy) as lane:
        h = lane.advance()
        np.testing.assert_allclose(h, expected[0], atol=1e-5)
        h += 1.0
        assert np.abs(lane.advance() - expected[2]).max() > 0.01


def test_rows_that_nobody_writes_to_do_not_go_back(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib, sizes = ggml.library(), []
    write = lib.ggml_backend_tensor_set

    def spy(tensor: int, data: int, offset: int, size: int) -> None:
        sizes.append(size)
        write(tensor, data, offset, size)

    monkeypatch.setattr(lib, "ggml_backend_tensor_set", spy)
    for reads_only in (False, True):
        with Lane(tiny_model, TEXTS, layers=range(3), copy=True, reads_only=reads_only) as lane:
            for _ in range(3):
                lane.advance()
    layer = 4 * sum(map(len, TEXTS)) * tiny_model.n_ff
    assert sizes == [layer] * 2  # of the first lane, which ends at the last layer


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_lane_gives_back_what_nobody_reads(
    tiny_path: Callable[..., Path], architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits before the first layer; at each layer keys, values and both halves of the product."""
    given: list[range] = []
    monkeypatch.setattr(pages, "give_back", given.append)
    with Model(str(tiny_path(architecture=architecture)), batch_invariant=True) as model:
        with Lane(model, TEXTS, layers=[0, 2]) as lane:
            sizes = [list(map(len, given))]
            for _ in range(2):
                given.clear()
                h = lane.advance()
                inside = range(h.ctypes.data, h.ctypes.data + h.nbytes)
                assert not any(pages.meet(region, inside) for region in given)
                sizes.append(list(map(len, given)))
        half = 4 * sum(map(len, TEXTS)) * model.n_ff
        assert sizes[0] == [4 * len(TEXTS) * model.n_vocab]
        for *caches, one, other in sizes[1:]:
            assert one == other == half
            assert sum(caches) > 0


def test_a_lanes_tap_is_for_one_batch(tiny_model: Model) -> None:
    """Another would miss its keys and values."""
    tap = Tap(tiny_model, lambda *_: True, sparing=True)
    rows = range(3)
    batch = Batch([5, 6, 7], list(rows), [0] * 3, [False] * 3)
    with Context(tiny_model, n_ctx=32, hook=tap) as context:
        context.decode(batch)
        with pytest.raises(EngineError, match="was given back"):
            context.decode(batch)


def test_what_is_given_back_is_not_counted(
    tiny_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [[1] + [5] * 99] * 12
    with Model(str(tiny_path(n_words=20_000))) as model:
        counted = lane_bytes(model, texts, [0, 1])
        logits, half = 4 * len(texts) * model.n_vocab, 4 * 1200 * model.n_ff
        # In the context's own buffer, and in the graph's, where the layers' rows lie too.
        assert counted.awake <= counted.reserved - logits
        cache, rows = layers_bytes(model, n_ctx=1200, n_ubatch=1200)
        assert counted.awake == rows + cache // 3
        assert counted.asleep == rows - 2 * half
        # With the last layer each row has logits, and the first decode clears as many.
        whole = lane_bytes(model, texts, [2])
        assert whole.awake == counted.awake + 4 * 1200 * model.n_vocab
        monkeypatch.setattr(pages, "POSSIBLE", False)
        assert set(lane_bytes(model, texts, [0, 1])) == {counted.reserved}


def running_lanes() -> int:
    """Threads of lanes; those of other tests may end meanwhile."""
    return sum(thread.name == "lane" for thread in threading.enumerate())


def test_a_lane_ends(tiny_model: Model) -> None:
    lane = Lane(tiny_model, TEXTS, layers=[1])
    assert running_lanes() == 0
    lane.advance()
    assert running_lanes() == 1
    for _ in range(2):
        with pytest.raises(EngineError, match="passed its last layer"):
            lane.advance()
    lane.close()
    lane.close()
    paused = Lane(tiny_model, TEXTS, layers=[0, 1])
    paused.advance()
    paused.close()
    with pytest.raises(EngineError, match="passed its last layer"):
        paused.advance()
    Lane(tiny_model, TEXTS, layers=[0]).close()
    assert running_lanes() == 0


def test_what_fails_in_the_lane_is_raised_outside(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = Lane(tiny_model, TEXTS, layers=[0])

    def fail(_batch: object) -> None:
        raise EngineError("from the lane")

    monkeypatch.setattr(lane._context, "decode", fail)
    with pytest.raises(EngineError, match="from the lane"):
        lane.advance()
    lane.close()


def test_bad_input_is_refused(tiny_model: Model) -> None:
    with pytest.raises(InputError, match="a layer to stop at"):
        Lane(tiny_model, TEXTS, layers=[])
    with pytest.raises(InputError, match="without tokens"):
        Lane(tiny_model, [[1], []], layers=[0])


def test_lanes_together_are_lanes_in_turn(tiny_path: Callable[..., Path]) -> None:
    with Model(str(tiny_path()), batch_invariant=True) as model:
        expected = capture(model, TEXTS)
        with ExitStack() as stack:
            lanes = [
                stack.enter_context(Lane(model, [text], layers=range(3), n_threads=1))
                for text in TEXTS
            ]
            for layer in range(3):
                rows = np.concatenate(advance_together(lanes, 2))
                np.testing.assert_array_equal(rows, expected[layer])


def test_what_fails_in_one_lane_waits_for_the_others(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Lane(tiny_model, TEXTS, layers=[0, 1]) as one,
        Lane(tiny_model, TEXTS, layers=[0, 1]) as other,
    ):
        monkeypatch.setattr(one._context, "decode", lambda _batch: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            advance_together([one, other], 2)
        assert other.advance().shape[0] == sum(map(len, TEXTS))  # it stood at its first layer
        with pytest.raises(EngineError, match="passed its last layer"):
            advance_together([other, one], 2)


def push(h: np.ndarray) -> None:
    h += 1.0


def test_errands_are_done_as_a_lane_comes_and_goes(tiny_path: Callable[..., Path]) -> None:
    kept: list[np.ndarray] = []
    with (
        Model(str(tiny_path()), batch_invariant=True) as model,
        Lane(model, TEXTS, layers=[0, 2]) as sent,
        Lane(model, TEXTS, layers=[0, 2]) as told,
    ):
        errand = Errand(leaving=push, arriving=lambda h: kept.append(h.copy()))
        (shown,) = advance_together([sent], 1, [errand])
        own = told.advance()
        np.testing.assert_array_equal(shown, own)  # it stands nowhere yet that it could leave
        np.testing.assert_array_equal(kept[0], own)
        push(own)
        (shown,) = advance_together([sent], 1, [errand])
        np.testing.assert_array_equal(shown, told.advance())
        np.testing.assert_array_equal(kept[1], shown)


def test_lanes_that_go_one_at_a_time_wait_for_each_other(tiny_model: Model) -> None:
    seen: list[str] = []

    def arriving(_h: np.ndarray) -> None:
        seen.append("comes")
        time.sleep(0.005)  # others would come meanwhile
        seen.append("is there")

    with ExitStack() as stack:
        lanes = [stack.enter_context(Lane(tiny_model, TEXTS, layers=[0, 1])) for _ in range(4)]
        for _ in range(2):
            advance_together(lanes, 1, [Errand(arriving=arriving)] * 4)
    assert seen == ["comes", "is there"] * 8


def test_long_lanes_begin_first(tiny_model: Model) -> None:
    texts = [[1, 2], [1, 2, 3, 4], [1], [1, 2, 3]]
    came: list[int] = []
    errand = Errand(arriving=lambda h: came.append(len(h)))
    with ExitStack() as stack:
        lanes = [stack.enter_context(Lane(tiny_model, [text], layers=[0, 1])) for text in texts]
        for _ in range(2):
            found = advance_together(lanes, 1, [errand] * 4)
            assert list(map(len, found)) == list(map(len, texts))
    assert came == [4, 3, 2, 1] * 2


def test_no_lane_begins_after_an_interrupt(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived: list[int] = []
    interrupted = threading.Event()

    def arriving(h: np.ndarray) -> None:
        arrived.append(len(h))
        interrupted.wait()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with ExitStack() as stack:
        lanes = [stack.enter_context(Lane(tiny_model, TEXTS, layers=[0, 1])) for _ in range(4)]
        for lane in lanes:
            monkeypatch.setattr(lane, "_wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            advance_together(lanes, 1, [Errand(arriving=arriving)] * 4)
        interrupted.set()
    assert len(arrived) == 1
    assert running_lanes() == 0


def test_what_fails_in_an_errand_is_raised_and_ends_its_turn(tiny_model: Model) -> None:
    with (
        Lane(tiny_model, TEXTS, layers=[0, 1]) as one,
        Lane(tiny_model, TEXTS, layers=[0, 1]) as other,
    ):
        with pytest.raises(ZeroDivisionError):
            advance_together([one, other], 1, [Errand(arriving=lambda _h: 1 // 0), Errand()])
        assert other.advance().shape[0] == sum(map(len, TEXTS))


@pytest.mark.parametrize(
    ("n_lanes", "n_threads", "each"), [(2, 16, 8), (30, 16, 1), (1, 4, 4), (4, 2, 1), (0, 2, 2)]
)
def test_lanes_share_out_threads(n_lanes: int, n_threads: int, each: int) -> None:
    assert lane_threads(n_lanes, n_threads) == each
