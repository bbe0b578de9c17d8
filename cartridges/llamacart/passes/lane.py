"""A forward pass that stops at each layer until it is told to go on.

llama.cpp cannot be paused from outside, but it waits for its eval callback. Each lane decodes on a
thread of its own, and its callback sleeps while others compute. Many lanes, one advanced at a time,
thus move through the layers side by side: what has to see all rows of a layer before any row
goes on to the next can do so with rows that no single ubatch could hold.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from llamacart.errors import EngineError, InputError
from llamacart.llama.closing import Closing
from llamacart.llama.context import Context
from llamacart.llama.footprint import context_bytes, layers_bytes
from llamacart.llama.tap import Tap
from llamacart.machine import pages
from llamacart.machine.blas import one_blas_thread
from llamacart.passes.batching import as_batch
from llamacart.passes.capture import count_rows, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from llamacart.llama.model import Model

    Work = Callable[[NDArray[np.float32]], None]
    """What a lane does with its rows [T, D], on a thread of its own."""


class Errand(NamedTuple):
    """What a lane does on its way from one layer to the next.

    Attributes:
        leaving: With the rows where it stands, which it may change. Not done where it stands
            nowhere yet.
        arriving: With the rows of the next layer.
    """

    leaving: Work | None = None
    arriving: Work | None = None


class _Turns:
    """Lanes that go on one after the other, each as soon as another has come to its layer.

    Args:
        waiting: Lanes and their errands, in the order in which they go on.

    Attributes:
        over: Nobody waits for them any more: no other lane is to begin.
    """

    def __init__(self, waiting: Iterable[tuple[Lane, Errand]]) -> None:
        self._waiting = deque(waiting)
        self.over = False

    def give(self) -> None:
        """Let the next one go on, if there is one; one that cannot tells whoever waits for it."""
        while not self.over:
            try:
                lane, errand = self._waiting.popleft()
            except IndexError:
                return
            try:
                lane._release(_Way(errand, self))
            except BaseException as error:
                lane._seen.put(error)
            else:
                return


class _Way(NamedTuple):
    """How a lane goes on: with an errand, and as one of those that take turns."""

    errand: Errand = Errand()
    turns: _Turns | None = None


_ALONE = _Way()


class LaneBytes(NamedTuple):
    """Upper estimates of what a lane takes.

    Attributes:
        reserved: What llama.cpp asks the system for.
        awake: Of it, what the lane takes while it computes.
        asleep: Of it, what it takes while it stands at a layer.
    """

    reserved: int
    awake: int
    asleep: int


def lane_bytes(
    model: Model, sequences: Sequence[Sequence[int]], layers: Iterable[int], *, shared: bool = False
) -> LaneBytes:
    """What a `Lane` takes."""
    total = count_rows(sequences, shared=shared)
    n_outputs = total if model.n_layer - 1 in set(layers) else 1
    staged = 4 * total * (model.n_ff + model.n_embd) if model.uses_device else 0
    reserved = staged + context_bytes(
        model, n_ctx=total, n_ubatch=total, n_seq_max=len(sequences), n_outputs=n_outputs
    )
    if model.uses_device or not pages.POSSIBLE:
        return LaneBytes(reserved, reserved, reserved)
    # Where more rows want logits than there are sequences, the first decode clears more of them.
    cleared = 4 * model.n_vocab * n_outputs if n_outputs > len(sequences) else 0
    cache, rows = layers_bytes(model, n_ctx=total, n_ubatch=total)
    kept = cleared + int(model.kept_cache * cache)
    asleep = kept + rows - 4 * total * model.n_ff * len(model.spent_sources)
    return LaneBytes(reserved, kept + cache // model.n_layer + rows, asleep)


class Lane(Closing):
    """Sequences of one ubatch on their way through the layers.

    A lane has threads of its own (with OpenMP, llama.cpp starts a team for each thread that
    decodes), so that many lanes should have few each: see `advance_together`. Rows are numbered
    over all sequences, as `llamacart.passes.capture.row_numbers` does.

    Args:
        model: The model; must outlive the lane.
        sequences: Token ids, each a sequence of its own from position 0; at most 256.
        layers: Layers to stop at. With the last one llama.cpp reserves n_vocab floats a row; see
            `llamacart.passes.capture.output_budget`.
        shared: Whether what several sequences begin with is computed once.
        n_threads: Threads for compute.
        node: Node to stop at; None means the site.
        beside: Another node of the layer whose rows are wanted at the same time; see `Tap`.
        reads_only: Nobody writes to the rows.
        copy: See `Tap`.

    Attributes:
        n_rows: Rows T.
    """

    def __init__(
        self,
        model: Model,
        sequences: Sequence[Sequence[int]],
        *,
        layers: Iterable[int],
        shared: bool = False,
        n_threads: int | None = None,
        node: str | None = None,
        beside: str | None = None,
        reads_only: bool = False,
        copy: bool = False,
    ) -> None:
        wanted = set(layers)
        if not wanted:
            raise InputError("a lane needs a layer to stop at")
        if not sequences or any(len(sequence) == 0 for sequence in sequences):
            raise InputError("a sequence without tokens cannot be run")
        self._last = max(wanted)
        self.n_rows = total = count_rows(sequences, shared=shared)
        whole = model.n_layer - 1 in wanted
        self._batch = as_batch(together(sequences, lambda *_: whole, shared=shared))
        self._seen: SimpleQueue[NDArray[np.float32] | BaseException | None] = SimpleQueue()
        self._go: SimpleQueue[_Way | None] = SimpleQueue()
        self._way = _ALONE
        self._beside: NDArray[np.float32] | None = None
        other = (beside, self._hold) if beside else None
        tap = Tap(
            model,
            self._stop_at,
            node=node,
            beside=other,
            reads_only=reads_only,
            copy=copy,
            sparing=True,
        )
        tap.wanted = wanted
        self._context = Context(
            model,
            n_ctx=total,
            n_batch=total,
            n_seq_max=len(sequences),
            n_outputs=total if whole else 1,
            n_threads=n_threads,
            hook=tap,
        )
        self._context.spare_logits()
        self._thread = threading.Thread(target=self._decode, name="lane", daemon=True)
        self._state = "new"

    def advance(self) -> NDArray[np.float32]:
        """Run to the next layer; its rows [T, D] may be read and written until the next call.

        Raises:
            EngineError: llama.cpp failed, or no layer is left.
        """
        self._release()
        return self._wait()

    @property
    def beside(self) -> NDArray[np.float32]:
        """Rows [T, E] of the node beside the one where it stands, to be read until it goes on.

        Raises:
            EngineError: None was asked for, or the lane stands nowhere.
        """
        if self._beside is None or self._state != "running":
            raise EngineError("the lane stands beside no node")
        return self._beside

    def _release(self, way: _Way = _ALONE) -> None:
        """Let the lane run."""
        if self._state == "ended":
            raise EngineError("the lane has passed its last layer")
        self._go.put(way)
        if self._state == "new":
            self._state = "running"
            self._thread.start()

    def _wait(self) -> NDArray[np.float32]:
        """Wait until it has come to the next layer."""
        found = self._seen.get()
        if found is None or isinstance(found, BaseException):
            self._state = "ended"
            raise found or EngineError("the lane has passed its last layer")
        return found

    def close(self) -> None:
        """End the pass where it stands and free its memory."""
        if self._thread.is_alive():
            self._go.put(None)
            self._thread.join()
        self._state = "ended"
        self._context.close()

    def _decode(self) -> None:
        try:
            if self._goes_on():
                self._context.decode(self._batch)
        except BaseException as error:
            self._end_turn()
            self._seen.put(error)
        else:
            self._end_turn()
            self._seen.put(None)

    def _goes_on(self) -> bool:
        """Wait for the next way; whether there is one."""
        way = self._go.get()
        if way is None:
            return False
        self._way = way
        return True

    def _end_turn(self) -> None:
        """Let another lane compute; nothing where it is not this lane's turn."""
        turns, self._way = self._way.turns, _ALONE
        if turns is not None:
            turns.give()

    def _hold(self, _layer: int, _rows: NDArray[np.int64], x: NDArray[np.float32]) -> None:
        """The tap's reader, on the lane's own thread."""
        self._beside = x

    def _stop_at(self, layer: int, _rows: NDArray[np.int64], h: NDArray[np.float32]) -> bool:
        """The tap's visitor, on the lane's own thread."""
        if self._way.errand.arriving is not None:
            self._way.errand.arriving(h)
        self._end_turn()
        self._seen.put(h)
        if not self._goes_on() or layer == self._last:
            return False
        if self._way.errand.leaving is not None:
            self._way.errand.leaving(h)
        return True


def lane_threads(n_lanes: int, n_threads: int) -> int:
    """Threads for each of some lanes, so that all together have no more than lanes or threads.

    Args:
        n_lanes: Lanes that are open at the same time.
        n_threads: Processors to use.
    """
    return max(1, n_threads // max(1, n_lanes))


def advance_together(
    lanes: Sequence[Lane], width: int, errands: Sequence[Errand] | None = None
) -> list[NDArray[np.float32]]:
    """Run lanes to their next layer, `width` of them at the same time.

    Long ones begin first, so that what is left at the end is short.

    Args:
        lanes: Any number.
        width: How many may compute at once: processors over threads of a lane.
        errands: What each does on its way; None means nothing.

    Returns:
        The rows of each lane; see `Lane.advance`.

    Raises:
        EngineError: As `Lane.advance`, once no lane computes any more.
    """
    given = [Errand()] * len(lanes) if errands is None else errands
    turns = _Turns(sorted(zip(lanes, given, strict=True), key=lambda own: -own[0].n_rows))
    found: list[NDArray[np.float32]] = []
    failed: BaseException | None = None
    with one_blas_thread():  # lanes are on all processors
        for _ in range(max(1, width)):
            turns.give()
        for lane in lanes:
            try:
                found.append(lane._wait())
            except Exception as error:
                failed = failed or error
            except BaseException:  # Ctrl-C
                turns.over = True
                raise
    if failed is not None:
        raise failed
    return found
