"""The engine: one thread that owns the runner and turns requests into streams of tokens."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

from llamacart.cartridge import check_alpha
from llamacart.errors import EngineError, LlamacartError, OverloadedError
from llamacart_server.engine.generation import Generation
from llamacart_server.engine.jobs import Jobs, fresh
from llamacart_server.engine.kv.actions import perform
from llamacart_server.engine.limits import MAX_QUEUED, MAX_QUEUED_TOKENS, SchedulerConfig
from llamacart_server.engine.postprocess import End, Live, Postprocessor, engine_error
from llamacart_server.engine.residents import Residents
from llamacart_server.engine.scheduler import Scheduler
from llamacart_server.engine.sequence import Sequence, SequenceState
from llamacart_server.engine.stats import Counters, EngineStats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Self

    from llamacart.cartridge import Cartridge
    from llamacart_server.engine.generation import Ending
    from llamacart_server.engine.jobs import Work
    from llamacart_server.engine.kv.actions import Action
    from llamacart_server.engine.plan import Plan
    from llamacart_server.engine.request import GenerationRequest, TokenEvent
    from llamacart_server.engine.runner_interface import Runner
    from llamacart_server.engine.stats import Outcome

__all__ = ["Engine", "EngineStats", "Generation"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Engine:
    """Continuous batching over a runner, cartridges chosen per request, prefixes shared.

    `start` runs steps in a thread of its own until `stop`. Without it, whoever calls `step`
    is the engine thread, which is how tests drive it. `submit`, `load`, `unload`, `call`, `begin`,
    `stats`, `failure` and a generation's `cancel` and `finish` may be called from any thread.

    A finished sequence's rows stay in its slot for later requests that begin alike under the
    same steering, as far as the runner has more slots than sequences.

    What the runner raises ends the generations it concerns. Where it is not known any more what
    the KV cache holds, it is cleared and the running generations are computed again. Where it
    cannot be cleared, or the books do not agree, the engine has failed: all that is open is told
    so, nothing more is taken, and `failure` says why.

    Args:
        runner: Used by the engine thread only; stays the caller's, who closes it.
        max_queued: Requests that may wait.
        max_queued_tokens: Prompt tokens that may wait.
        prefill_rows: Most prompt rows in a step in which others decode; None means a quarter
            of the runner's `n_batch`.
        host_cache_bytes: Host memory for rows that had to leave the KV cache; 0 means none.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        max_queued: int = MAX_QUEUED,
        max_queued_tokens: int = MAX_QUEUED_TOKENS,
        prefill_rows: int | None = None,
        host_cache_bytes: int = 0,
    ) -> None:
        self._runner = runner
        self._residents = Residents(runner)
        self._scheduler = Scheduler(
            SchedulerConfig(
                n_ctx=runner.n_ctx,
                n_batch=runner.n_batch,
                n_sequences=runner.n_sequences,
                n_cached=runner.n_slots - runner.n_sequences,
                host_cache_bytes=host_cache_bytes,
                ordered=runner.ordered,
                prefill_rows=prefill_rows,
                max_queued=max_queued,
                max_queued_tokens=max_queued_tokens,
            )
        )
        # Guards the scheduler and everything below; never held while the runner computes.
        self._changed = threading.Condition()
        self._live: dict[Sequence, Live] = {}
        self._leaving: list[tuple[Sequence, Ending]] = []
        self._jobs = Jobs()
        self._counters = Counters()
        self._postprocessor = Postprocessor(runner, self._counters)
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._failure: LlamacartError | None = None
        self._on_failure: Callable[[], object] | None = None

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

    @property
    def failure(self) -> LlamacartError | None:
        """Why the engine has failed; None where it has not."""
        return self._failure

    def when_failed(self, callback: Callable[[], object]) -> None:
        """Have `callback` called, by any thread, when the engine has failed: at once if it has."""
        with self._changed:
            self._on_failure = callback
            failed = self._failure is not None
        if failed:
            callback()

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
        max_tokens = self._scheduler.fit_max_tokens(request)
        sequence = Sequence(request, max_tokens, self._runner.token_bytes)
        generation = Generation(lambda ending: self._leave(sequence, ending))
        with ExitStack() as undo:
            sampler = self._runner.sampler(request.sampling)
            undo.callback(sampler.close)
            with self._changed:
                self._check_open()
                self._residents.acquire(sequence.cartridges)
                undo.callback(self._residents.release, sequence.cartridges)
                self._scheduler.add(sequence)
                self._live[sequence] = Live(sequence, generation, sampler)
                self._changed.notify_all()
            undo.pop_all()
        return generation

    def load(self, cartridge: Cartridge) -> None:
        """Make a cartridge usable; returns when it is. Loading equal content again does nothing.

        Raises:
            CartridgeMismatchError: Made for another model.
            OverloadedError: The engine has stopped.
        """
        self.call(lambda: self._residents.load(cartridge))

    def unload(self, cartridge: Cartridge) -> None:
        """Refuse the cartridge to new requests; it stays resident while open ones use it.

        Cartridges are told apart by content hash, and loads are not counted: one `unload`
        undoes any number of loads.

        Raises:
            NotFoundError: It is not loaded.
            OverloadedError: The engine has stopped.
        """
        self.call(lambda: self._residents.unload(cartridge))

    def call(self, job: Callable[[], T]) -> T:
        """Run `job` on the engine thread, between two steps, and wait for it.

        Raises:
            OverloadedError: The engine has stopped.
        """
        with self._changed:
            self._check_open()
            future: Future[T] | None = None
            if self._thread not in (None, threading.current_thread()):
                future = self._jobs.call(job)
                self._changed.notify_all()
        return job() if future is None else future.result()

    def begin(self, work: Work[T]) -> Future[T]:
        """Have `work` done on the engine thread, a step of it between two of the engine's.

        Works are done one after the other. Cancelling the future gives the work up: the engine
        thread drops it.

        Raises:
            OverloadedError: The engine has stopped.
        """
        with self._changed:
            self._check_open()
            future = self._jobs.begin(work)
            self._changed.notify_all()
        return future

    def stats(self) -> EngineStats:
        """A consistent snapshot."""
        with self._changed:
            scheduler = self._scheduler
            return EngineStats(
                running=scheduler.n_running,
                queued=scheduler.n_queued,
                queued_tokens=scheduler.queued_tokens,
                kv_used=scheduler.kv_used,
                kv_cached=scheduler.kv_cached,
                cached_entries=scheduler.cached_entries,
                host_bytes=scheduler.host_bytes,
                device_bytes=self._runner.device_bytes,
                preempted=scheduler.n_preempted,
                waiting_cartridges=scheduler.waiting_cartridges,
                **asdict(self._counters),
            )

    def _leave(self, sequence: Sequence, ending: Ending) -> None:
        with self._changed:
            if sequence not in self._live:
                return
            if sequence.state is SequenceState.WAITING:
                self._scheduler.remove(sequence)
                self._retire(sequence, ending)
            else:
                self._leaving.append((sequence, ending))
            self._changed.notify_all()

    def _check_open(self) -> None:
        if self._failure is not None:
            raise OverloadedError(f"the engine has failed: {self._failure.message}")
        if self._stopping:
            raise OverloadedError("the engine has stopped")

    # --- engine thread ----------------------------------------------------------------------

    def step(self) -> bool:
        """Do what waits, then compute one batch; false where there was nothing to compute."""
        self._housekeeping()
        n_resets = self._counters.cache_resets
        planned = self._schedule()
        plan = planned.still_running()
        if not plan.chunks:
            return bool(planned.chunks) or self._counters.cache_resets > n_resets
        for chunk in plan.chunks:
            self._live[chunk.sequence].tally.begin()
        for sequence, outcome, last in self._compute(plan):
            self._end(sequence, outcome, last)
        return True

    def _compute(self, plan: Plan) -> list[End]:
        """Run the rows and deliver the tokens; returns who is over."""
        try:
            report = self._runner.run(plan.batch())
            return self._postprocessor.process(plan, report, self._live)
        except Exception as error:
            logger.exception("a step of %d rows failed", plan.n_rows)
            return [End(chunk.sequence, "failed", engine_error(error)) for chunk in plan.chunks]

    def _housekeeping(self) -> None:
        self._jobs.run()
        with self._changed:
            leaving, self._leaving = self._leaving, []
        for sequence, ending in leaving:
            self._end(sequence, ending)
        self._residents.drop_unused()

    def _schedule(self) -> Plan:
        """Admit who can run, and plan the step once it is known what they could reuse."""
        with self._changed:
            actions = self._scheduler.admit()
        self._perform(actions)
        with self._changed:
            plan = self._scheduler.plan()
            self._counters.steps += bool(plan.chunks)
        self._perform(plan.actions)
        return plan

    def _perform(self, actions: Iterable[Action]) -> None:
        performed = perform(actions, self._runner)
        with self._changed:
            for rows, state in performed.saved:
                self._scheduler.saved(rows, state)
        if performed.unknown is not None:
            self._reset()
            return
        with self._changed:
            for action in performed.failed:
                self._scheduler.lost(action)
            lost = self._scheduler.emptied(performed.emptied)
        for sequence in lost:
            self._end(sequence, "failed", EngineError("its rows in the KV cache were lost"))

    def _reset(self) -> None:
        """Clear the KV cache, of which it is not known what it holds, and compute again."""
        self._runner.clear()
        with self._changed:
            self._counters.cache_resets += 1
            given_up = self._scheduler.reset()
        for sequence in given_up:
            self._end(sequence, "failed", EngineError("its rows in the KV cache were lost again"))

    def _end(
        self, sequence: Sequence, outcome: Outcome, last: TokenEvent | LlamacartError | None = None
    ) -> None:
        """Take out a sequence and give back what it holds, then deliver its last event."""
        live = self._live.get(sequence)
        if live is None:  # it finished before its cancellation was seen
            return
        # What a failed step left in the KV cache is not known.
        with self._changed:
            actions = self._scheduler.remove(sequence, keep=outcome != "failed")
        self._perform(actions)
        with self._changed:
            self._retire(sequence, outcome)
        live.generation.report = live.tally.report(telemetry=live.sequence.request.telemetry)
        if last is not None:
            live.generation.deliver(last)

    def _retire(self, sequence: Sequence, outcome: Outcome) -> None:
        """Let go of what goes with a sequence that the scheduler has given up."""
        live = self._live.pop(sequence)
        self._residents.release(sequence.cartridges)
        self._counters.end(outcome)
        try:
            live.sampler.close()
        except Exception:
            logger.exception("a sampler keeps its memory")

    # --- the thread -------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while self._wait_for_work():
                self.step()
        except BaseException as error:
            self._fail(error)
        else:
            self._abandon(OverloadedError("the engine has stopped"))

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(self._has_work)
            return not self._stopping

    def _has_work(self) -> bool:
        waiting = self._jobs.waiting or self._leaving or self._scheduler.has_work
        return bool(waiting or self._residents.has_unused or self._stopping)

    def _fail(self, error: BaseException) -> None:
        """Nothing is sure any more: tell everybody, and whoever watches over the engine."""
        logger.critical("the engine has failed", exc_info=error)
        with self._changed:
            self._failure = engine_error(error)
        self._abandon(self._failure)
        with self._changed:
            callback = self._on_failure
        if callback is not None:
            callback()

    def _abandon(self, reason: LlamacartError) -> None:
        """Let nobody wait for what will not come, then let go of what is held."""
        with self._changed:
            self._stopping = True
            lives = list(self._live.values())
        for live in lives:
            live.generation.deliver(fresh(reason))
        self._jobs.close(reason)
        try:
            with self._changed:
                for live in [live for live in lives if live.sequence in self._live]:
                    self._scheduler.remove(live.sequence)
                    self._retire(live.sequence, "failed")
                self._scheduler.clear_cache()
            self._runner.clear()
        except Exception:
            logger.exception("not all that the engine held is free")
