"""What the runner raises: whom it ends, what goes on, and when the engine is at its end."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from llamacart.errors import EngineError, HostWorkError, OverloadedError
from llamacart_server.engine.engine import Engine
from llamacart_server.engine.kv.actions import Compact, Copy


def failing(error, times=1):
    """A function that raises some times, and then does nothing."""
    left = [error] * times

    def fail(*_):
        if left:
            raise left.pop()

    return fail


class TestOneOfMany:
    @pytest.mark.parametrize("failure", [EngineError("decode failed"), ValueError("odd")])
    def test_a_failed_step_ends_its_batch_and_the_engine_goes_on(self, fakes, failure):
        runner = fakes.Runner(n_sequences=2)
        engine = Engine(runner)
        requests = [fakes.request(3, 9, first=i) for i in range(3)]
        hit = [engine.submit(request) for request in requests[:2]]
        queued = engine.submit(requests[2])
        engine.step()
        runner.fail = failure
        engine.step()
        assert not runner.kv
        fakes.drive(engine)
        assert fakes.tokens(queued) == fakes.alone(requests[2])
        for generation in hit:
            events = generation.events()
            assert next(events).finish_reason is None
            with pytest.raises(EngineError, match=str(failure)):
                next(events)
        assert (engine.stats().failed, engine.stats().finished) == (2, 1)
        assert engine.stats().cached_entries == 1

    def test_failed_sampling_ends_one_sequence(self, engine, runner, fakes):
        bad = engine.submit(fakes.request(3, 9, seed=1))
        request = fakes.request(3, 9, seed=2)
        good = engine.submit(request)
        runner.samplers[0].broken = True
        fakes.drive(engine)
        with pytest.raises(EngineError):
            fakes.tokens(bad)
        assert fakes.tokens(good) == fakes.alone(request)

    def test_failed_sampling_names_what_acted(self, engine, runner, fakes):
        cartridge = fakes.cartridge("wild")
        engine.load(cartridge)
        bad = engine.submit(fakes.request(3, 9, (cartridge, 0.5, "all")))
        runner.samplers[0].broken = True
        fakes.drive(engine)
        with pytest.raises(EngineError, match=r"broken; what acted: 'wild' at alpha 0\.5"):
            fakes.tokens(bad)

    def test_an_error_after_the_step_ends_its_batch_alone(self, engine, runner, fakes):
        requests = [fakes.request(3, 9, first=i, ignore_eos=True) for i in (1, 50)]
        first = engine.submit(requests[0])
        engine.step()
        runner.is_end = failing(RuntimeError("no vocabulary"))
        engine.step()
        second = engine.submit(requests[1])
        fakes.drive(engine)
        with pytest.raises(EngineError, match="no vocabulary"):
            fakes.tokens(first)
        assert fakes.tokens(second) == fakes.alone(requests[1])

    def test_a_cartridge_that_cannot_be_unloaded_stops_nobody(self, engine, runner, fakes):
        cartridge = fakes.cartridge("french")
        request = fakes.request(3, 9, (cartridge, 1.0, "all"))
        engine.load(cartridge)
        generation = engine.submit(request)
        engine.unload(cartridge)
        runner.unload = failing(RuntimeError("stuck"))
        fakes.drive(engine)
        assert fakes.tokens(generation) == fakes.alone(request)
        engine.load(cartridge)
        again = engine.submit(request)
        fakes.drive(engine)
        assert fakes.tokens(again) == fakes.alone(request)

    def test_a_sampler_that_cannot_be_closed_stops_nobody(self, engine, runner, fakes):
        requests = [fakes.request(3, 9, first=i) for i in (1, 50)]
        generations = [engine.submit(request) for request in requests]
        sampler, close = runner.samplers[0], runner.samplers[0].close
        sampler.close = failing(RuntimeError("stuck"))
        fakes.drive(engine)
        assert [fakes.tokens(g) for g in generations] == [fakes.alone(r) for r in requests]
        close()


class TestHostWork:
    def test_a_generation_whose_token_took_too_long_ends_alone(self, engine, runner, fakes, caplog):
        requests = [fakes.request(3, 9, first=i, ignore_eos=True) for i in (1, 50)]
        generations = [engine.submit(request) for request in requests]
        engine.step()
        slow, sample = runner.samplers[0], runner.sample

        def sample_slowly(picks):
            got = sample(picks)
            return [
                HostWorkError("took 4.50 s of work") if sampler is slow else token
                for (sampler, _), token in zip(picks, got, strict=True)
            ]

        runner.sample = sample_slowly
        fakes.drive(engine)
        with pytest.raises(HostWorkError, match=r"took 4\.50 s of work"):
            fakes.tokens(generations[0])
        assert fakes.tokens(generations[1]) == fakes.alone(requests[1])
        stats = engine.stats()
        assert (stats.overruns, stats.failed, stats.finished) == (1, 1, 1)
        assert [r.getMessage() for r in caplog.records] == [
            "a generation was ended: took 4.50 s of work"
        ]


class TestUnknownCache:
    """The runner raises where nobody knows what the slots hold afterwards."""

    def requests(self, fakes):
        return [fakes.request(30 + i, 20, first=100 * i, ignore_eos=True) for i in range(3)]

    def test_free(self, fakes):
        runner = fakes.Runner(n_cached=0)
        engine = Engine(runner)
        requests = self.requests(fakes)
        generations = [engine.submit(request) for request in requests]
        for _ in range(5):
            engine.step()
        free, runner.free = runner.free, failing(RuntimeError("cannot free"))
        generations[0].cancel()
        engine.step()
        runner.free = free
        fakes.check(engine)
        fakes.drive(engine)
        assert [fakes.tokens(g) for g in generations[1:]] == [fakes.alone(r) for r in requests[1:]]
        stats = engine.stats()
        assert (stats.cache_resets, stats.cancelled, stats.finished, stats.failed) == (1, 1, 2, 0)
        engine.stop()
        assert runner.empty

    def test_compact(self, fakes):
        runner = fakes.Runner(n_ctx=120, n_cached=0, ordered=True)
        engine = Engine(runner)
        compact = runner.compact

        def half(slots):
            runner.compact = compact
            compact(slots[:1])
            raise MemoryError

        runner.compact = half
        requests = self.requests(fakes)
        generations = [engine.submit(request) for request in requests]
        while engine.step():
            fakes.check(engine)
        assert [fakes.tokens(g) for g in generations] == [fakes.alone(r) for r in requests]
        assert runner.compact == compact
        assert engine.stats().cache_resets == 1

    def test_a_reuse_whose_slot_cannot_be_freed_either(self, engine, runner, fakes):
        request = fakes.request(30, 9)
        engine.submit(request)
        fakes.drive(engine)
        longer = fakes.continued(request, 7, 8, 9)
        generation = engine.submit(longer)
        runner.broken_reuse = RuntimeError("no copy")
        free, runner.free = runner.free, failing(RuntimeError("cannot free"))
        assert engine.step(), "there is work left"
        runner.free = free
        fakes.drive(engine)
        assert fakes.tokens(generation) == fakes.alone(longer)

    def test_what_always_fails_keeps_nobody_waiting(self, fakes):
        runner = fakes.Runner(n_ctx=130, n_batch=32, n_sequences=2, n_cached=0)
        runner.free = failing(RuntimeError("cannot free"), times=10**6)
        engine = Engine(runner)
        requests = [fakes.request(20, 100, first=300 * i, ignore_eos=True) for i in range(2)]
        generations = [engine.submit(request) for request in requests]
        for _ in range(1000):
            if not engine.step():
                break
        assert not engine.step()
        for generation, request in zip(generations, requests, strict=True):
            try:
                assert fakes.tokens(generation) == fakes.alone(request)
            except EngineError as error:
                assert "lost again" in error.message  # noqa: PT017
        assert engine.stats().running == engine.stats().queued == 0

    def test_an_idle_entry_that_a_compaction_lost_is_forgotten(self, fakes):
        runner = fakes.Runner(n_ctx=150, n_cached=2, ordered=True)
        engine = Engine(runner)
        engine.submit(fakes.request(20, 5, ignore_eos=True))
        fakes.drive(engine)
        (idle,) = engine._scheduler._cache._idle
        runner.no_compact = {idle}
        engine._perform((Compact((idle,)),))
        fakes.check(engine)
        assert engine.stats().cached_entries == 0

    def test_a_newcomer_whose_copy_fails_and_whose_slot_is_then_lost(self, engine, fakes):
        engine.submit(fakes.request(30, 90, ignore_eos=True))
        engine.step()
        (sequence,) = engine._live
        sequence.n_computed = 10
        action = Copy(3, sequence.slot, 10, sequence)
        engine._runner.forgets = {3}
        engine._runner.kv.pop(sequence.slot)
        engine._runner.compact = lambda slots: list(slots)
        engine._perform((action, Compact((sequence.slot,))))
        fakes.check(engine)
        assert sequence.slot is not None
        assert sequence.n_computed == 0
        next(iter(engine._live.values())).generation.cancel()
        fakes.drive(engine)


class TestEnd:
    def test_a_cache_that_cannot_be_cleared(self, fakes):
        runner = fakes.Runner(n_cached=0)
        engine = Engine(runner)
        generations = [engine.submit(fakes.request(3, 9, first=i)) for i in (1, 50)]
        told = threading.Event()
        engine.when_failed(told.set)
        runner.free = failing(RuntimeError("cannot free"), times=9)
        runner.clear = failing(RuntimeError("cannot clear"), times=9)
        with engine:
            for generation in generations:
                with pytest.raises(EngineError, match="cannot clear"):
                    fakes.tokens(generation)
            assert told.wait(60)
            with pytest.raises(OverloadedError, match="has failed: cannot clear"):
                engine.submit(fakes.request(3, 9))
            with pytest.raises(OverloadedError, match="has failed: cannot clear"):
                engine.load(fakes.cartridge("french"))
            later = threading.Event()
            engine.when_failed(later.set)
            assert later.is_set()
        assert engine.failure.message == "cannot clear"
        assert engine.stats().failed == 2
        assert runner.n_open_samplers == 0

    def test_books_that_do_not_agree(self, runner, fakes):
        engine = Engine(runner)
        generation = engine.submit(fakes.request(3, 9))
        engine._scheduler.plan = failing(ValueError("3 cells are wanted, 2 are free"), times=9)
        with engine, pytest.raises(EngineError, match="3 cells are wanted"):
            fakes.tokens(generation)
        assert engine.failure is not None
        assert runner.empty

    def test_who_waits_for_a_job_is_told(self, runner, fakes):
        engine = Engine(runner)
        runner.before_run = threading.Event().wait

        class Endless:
            dropped = 0

            def advance(self):
                return None

            def drop(self):
                self.dropped += 1

        work = Endless()
        with engine:
            future = engine.begin(work)
            engine._scheduler.admit = failing(ValueError("odd"), times=9)
            with pytest.raises(EngineError, match="odd"):
                future.result(60)
        assert work.dropped == 1

    def test_a_stopped_engine_has_not_failed(self, runner):
        with Engine(runner) as engine:
            pass
        assert engine.failure is None

    def test_a_call_that_ends_the_thread_is_answered(self, runner):
        def leave():
            raise SystemExit

        with Engine(runner) as engine:
            with pytest.raises(SystemExit):
                engine.call(leave)
            engine._thread.join(60)
            assert engine.failure is not None
            with pytest.raises(OverloadedError):
                engine.call(print)

    def test_a_cancel_after_the_end_does_nothing(self, runner, fakes):
        engine = Engine(runner)
        generation = engine.submit(fakes.request(3, 4000, ignore_eos=True))
        engine.stop()
        generation.cancel()
        assert not engine._leaving


class TestWorks:
    class Steps:
        """Work of some steps that notes the threads it is done in."""

        def __init__(self, n, error=None):
            self.left, self.error, self.dropped = n, error, 0
            self.threads = set()

        def advance(self):
            self.threads.add(threading.current_thread().name)
            self.left -= 1
            if self.error is not None and self.left <= 0:
                raise self.error
            return "done" if self.left <= 0 else None

        def drop(self):
            self.threads.add(threading.current_thread().name)
            self.dropped += 1

    def test_results_and_errors(self, runner):
        works = [self.Steps(3), self.Steps(2, ValueError("odd")), self.Steps(1)]
        with Engine(runner) as engine:
            futures = [engine.begin(work) for work in works]
            assert futures[0].result(10) == futures[2].result(10) == "done"
            with pytest.raises(ValueError, match="odd"):
                futures[1].result(10)
        assert [work.dropped for work in works] == [1, 1, 1]
        assert {"llamacart-engine"} == set.union(*(work.threads for work in works))

    def test_they_take_turns_with_steps(self, engine, runner, fakes):
        request = fakes.request(3, 9, ignore_eos=True)
        generation = engine.submit(request)
        work = self.Steps(5)
        engine.begin(work)
        engine.step()
        assert (work.left, len(runner.batches)) == (4, 1)
        engine.step()
        assert (work.left, len(runner.batches)) == (3, 2)
        fakes.drive(engine)
        assert fakes.tokens(generation) == fakes.alone(request)

    def test_one_that_is_given_up_is_dropped_and_the_next_begins(self, engine):
        works = [self.Steps(9), self.Steps(9), self.Steps(2)]
        futures = [engine.begin(work) for work in works]
        engine.step()
        for future in futures[:2]:
            assert future.cancel()
        engine.step()
        engine.step()
        assert [work.left for work in works] == [8, 9, 0]
        assert [work.dropped for work in works] == [1, 1, 1]
        assert futures[2].result(0) == "done"
        with pytest.raises(CancelledError):
            futures[0].result(0)

    def test_stop_drops_what_waits(self, runner):
        engine = Engine(runner)
        work = self.Steps(9)
        future = engine.begin(work)
        engine.stop()
        with pytest.raises(OverloadedError):
            future.result(0)
        assert work.dropped == 1
        with pytest.raises(OverloadedError):
            engine.begin(work)
