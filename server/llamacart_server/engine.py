"""The engine: one thread that owns the runner and turns requests into streams of tokens."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llamacart.cartridge import check_alpha
from llamacart.errors import EngineError, LlamacartError, OverloadedError
from llamacart_server.generation import Generation
from llamacart_server.request import TokenEvent
from llamacart_server.residents import Residents
from llamacart_server.scheduler import Plan, Scheduler, SchedulerConfig
from llamacart_server.sequence import Sequence, SequenceState

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from llamacart.cartridge import Cartridge
    from llamacart_server.request import GenerationRequest
    from llamacart_server.runner import Runner, TokenSampler

__all__ = ["Engine", "EngineStats", "Generation"]

logger = logging.getLogger(__name__)

Outcome = Literal["finished", "cancelled", "failed"]


@dataclass(frozen=True)
class EngineStats:
    """What the engine is doing, and what it has done since it was made.

    Attributes:
        running: Sequences with a slot.
        queued: Sequences that wait for one.
        queued_tokens: Their prompt tokens.
        kv_used_reserved: KV cells set aside for running sequences.
        steps: Batches given to the runner.
        finished: Generations that came to their end.
        cancelled: Generations that were cancelled.
        failed: Generations that ended with an error.
    """

    running: int
    queued: int
    queued_tokens: int
    kv_used_reserved: int
    steps: int
    finished: int
    cancelled: int
    failed: int


@dataclass(frozen=True)
class _Live:
    """What goes with a sequence until it is over."""

    sequence: Sequence
    generation: Generation
    sampler: TokenSampler


class Engine:
    """Continuous batching over a runner, cartridges chosen per request.

    `start` runs steps in a thread of its own until `stop`. Without it, whoever calls `step`
    is the engine thread, which is how tests drive it. `submit`, `load`, `unload`, `stats` and
    a generation's `cancel` may be called from any thread.

    Args:
        runner: Used by the engine thread only; stays the caller's, who closes it.
        max_queued: Requests that may wait.
        max_queued_tokens: Prompt tokens that may wait.
        prefill_rows: Most prompt rows in a step in which others decode; None means a quarter
            of the runner's `n_batch`.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        max_queued: int = 64,
        max_queued_tokens: int = 65_536,
        prefill_rows: int | None = None,
    ) -> None:
        self._runner = runner
        self._residents = Residents(runner)
        self._scheduler = Scheduler(
            SchedulerConfig(
                n_ctx=runner.n_ctx,
                n_batch=runner.n_batch,
                n_sequences=runner.n_sequences,
                prefill_rows=prefill_rows,
                max_queued=max_queued,
                max_queued_tokens=max_queued_tokens,
            )
        )
        # Guards the scheduler and everything below; never held while the runner computes.
        self._changed = threading.Condition()
        self._live: dict[Sequence, _Live] = {}
        self._cancelled: list[Sequence] = []
        self._jobs: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._outcomes: Counter[Outcome] = Counter()
        self._steps = 0
        self._thread: threading.Thread | None = None
        self._stopping = False

    # --- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the engine thread; an engine starts once."""
        if self._thread is not None or self._stopping:
            raise RuntimeError("an engine starts only once")
        self._thread = threading.Thread(target=self._serve, name="llamacart-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the engine after the step that is running; open generations end with an error."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        else:
            self._abandon(OverloadedError("the engine has stopped"))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # --- any thread -------------------------------------------------------------------------

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue a request.

        Raises:
            InputError: The request is not valid for this model (`AlphaError` for an α).
            ContextOverflowError: The prompt leaves no room for a token.
            NotFoundError: A cartridge is not loaded.
            OverloadedError: The queue is full, or the engine has stopped.
        """
        self._runner.check_tokens(request.prompt)
        for placed in request.doses:
            check_alpha(placed.dose.alpha)
        sequence = Sequence(request, self._scheduler.fit_max_tokens(request))
        generation = Generation(lambda: self._cancel(sequence))
        sampler = self._runner.sampler(request.sampling)
        try:
            with self._changed:
                self._check_open()
                self._residents.acquire(sequence.cartridges)
                try:
                    self._scheduler.add(sequence)
                except OverloadedError:
                    self._residents.release(sequence.cartridges)
                    raise
                self._live[sequence] = _Live(sequence, generation, sampler)
                self._changed.notify_all()
        except LlamacartError:
            sampler.close()
            raise
        return generation

    def load(self, cartridge: Cartridge) -> None:
        """Make a cartridge usable; returns when it is. Loading equal content again does nothing.

        Raises:
            CartridgeMismatchError: Made for another model.
            OverloadedError: The engine has stopped.
        """
        self._on_engine_thread(lambda: self._residents.load(cartridge))

    def unload(self, cartridge: Cartridge) -> None:
        """Refuse the cartridge to new requests; it stays resident while open ones use it.

        Cartridges are told apart by content hash, and loads are not counted: one `unload`
        undoes any number of loads.

        Raises:
            NotFoundError: It is not loaded.
            OverloadedError: The engine has stopped.
        """
        self._on_engine_thread(lambda: self._residents.unload(cartridge))

    def stats(self) -> EngineStats:
        """A consistent snapshot."""
        with self._changed:
            return EngineStats(
                running=self._scheduler.n_running,
                queued=self._scheduler.n_queued,
                queued_tokens=self._scheduler.queued_tokens,
                kv_used_reserved=self._scheduler.n_reserved,
                steps=self._steps,
                finished=self._outcomes["finished"],
                cancelled=self._outcomes["cancelled"],
                failed=self._outcomes["failed"],
            )

    def _cancel(self, sequence: Sequence) -> None:
        with self._changed:
            if sequence.state is SequenceState.WAITING:
                self._retire(sequence, "cancelled")
            else:
                self._cancelled.append(sequence)
            self._changed.notify_all()

    def _on_engine_thread(self, job: Callable[[], None]) -> None:
        with self._changed:
            self._check_open()
            future: Future[None] | None = None
            if self._thread not in (None, threading.current_thread()):
                future = Future()
                self._jobs.append((job, future))
                self._changed.notify_all()
        if future is None:
            job()
        else:
            future.result()

    def _check_open(self) -> None:
        if self._stopping:
            raise OverloadedError("the engine has stopped")

    # --- engine thread ----------------------------------------------------------------------

    def step(self) -> bool:
        """Do what waits, then compute one batch; false where there was nothing to compute."""
        self._housekeeping()
        with self._changed:
            plan = self._scheduler.plan()
            self._steps += bool(plan.chunks)
        if not plan.chunks:
            return False
        try:
            self._runner.run(plan.batch())
        except Exception as error:
            logger.exception("a step of %d rows failed", plan.n_rows)
            for chunk in plan.chunks:
                self._end(chunk.sequence, "failed", _engine_error(error))
        else:
            self._collect(plan)
        return True

    def _housekeeping(self) -> None:
        with self._changed:
            jobs, self._jobs = self._jobs, deque()
            cancelled, self._cancelled = self._cancelled, []
        for job, future in jobs:
            try:
                job()
            except Exception as error:  # it belongs to the caller, who waits
                future.set_exception(error)
            else:
                future.set_result(None)
        for sequence in cancelled:
            self._end(sequence, "cancelled")
        self._residents.drop_unused()

    def _collect(self, plan: Plan) -> None:
        row = -1
        for chunk in plan.chunks:
            row += chunk.n_rows
            chunk.sequence.n_computed = chunk.stop
            live = self._live[chunk.sequence]
            if live.generation.cancelled:
                self._end(chunk.sequence, "cancelled")
            elif chunk.output:
                self._advance(live, row)

    def _advance(self, live: _Live, row: int) -> None:
        """Sample the next token of one sequence and hand it over."""
        sequence = live.sequence
        try:
            token = self._runner.sample(live.sampler, row)
        except Exception as error:
            logger.exception("sampling failed")
            self._end(sequence, "failed", _engine_error(error))
            return
        if self._runner.is_end(token) and not sequence.request.ignore_eos:
            self._end(sequence, "finished", TokenEvent(None, "stop"))
            return
        sequence.append(token)
        if sequence.n_generated == sequence.max_tokens:
            self._end(sequence, "finished", TokenEvent(token, "length"))
        else:
            live.generation.deliver(TokenEvent(token))

    def _end(
        self, sequence: Sequence, outcome: Outcome, last: TokenEvent | LlamacartError | None = None
    ) -> None:
        """Free all that a running sequence holds, then deliver its last event."""
        live = self._live.get(sequence)
        if live is None:  # it finished before its cancellation was seen
            return
        if sequence.slot is not None:
            self._runner.free(sequence.slot)
        with self._changed:
            self._retire(sequence, outcome)
        if last is not None:
            live.generation.deliver(last)

    def _retire(self, sequence: Sequence, outcome: Outcome) -> None:
        live = self._live.pop(sequence)
        self._scheduler.remove(sequence)
        self._residents.release(sequence.cartridges)
        self._outcomes[outcome] += 1
        live.sampler.close()

    # --- the thread -------------------------------------------------------------------------

    def _serve(self) -> None:
        reason: LlamacartError = OverloadedError("the engine has stopped")
        try:
            while self._wait_for_work():
                self.step()
        except Exception as error:
            logger.exception("the engine thread failed")
            reason = _engine_error(error)
        finally:
            self._abandon(reason)

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(self._has_work)
            return not self._stopping

    def _has_work(self) -> bool:
        waiting = self._jobs or self._cancelled or self._scheduler.has_work
        return bool(waiting or self._residents.has_unused or self._stopping)

    def _abandon(self, reason: LlamacartError) -> None:
        """Let nobody wait for what will not come."""
        with self._changed:
            self._stopping = True
            lives = list(self._live.values())
            slots = [s.slot for s in self._live if s.slot is not None]
            for live in lives:
                self._retire(live.sequence, "failed")
            jobs, self._jobs = self._jobs, deque()
        for live in lives:
            live.generation.deliver(_copy(reason))
        for _, future in jobs:
            future.set_exception(_copy(reason))
        for slot in slots:
            self._runner.free(slot)


def _engine_error(error: Exception) -> EngineError:
    return EngineError(str(error) or type(error).__name__)


def _copy(error: LlamacartError) -> LlamacartError:
    # Raised in several threads, one object would gather all their tracebacks.
    return type(error)(error.message)
