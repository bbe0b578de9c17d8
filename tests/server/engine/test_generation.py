"""A generation as its caller sees it: its events, and its end in every state it can be in."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from llamacart.errors import EngineError
from llamacart_server.engine.engine import Engine
from llamacart_server.engine.generation import Generation
from llamacart_server.engine.request import TokenEvent


class TestCancel:
    def test_running(self, engine, runner, fakes):
        cancelled = engine.submit(fakes.request(3, 100, ignore_eos=True))
        other_request = fakes.request(4, 20, ignore_eos=True)
        other = engine.submit(other_request)
        for _ in range(3):
            engine.step()
        cancelled.cancel()
        cancelled.cancel()
        engine.step()
        assert engine.stats().running == 1
        assert set(runner.batches[-1].sequences) == {1}
        assert list(cancelled.events()) == []
        fakes.drive(engine)
        assert fakes.tokens(other) == fakes.alone(other_request)
        assert (engine.stats().cancelled, engine.stats().finished) == (1, 1)

    def test_in_the_middle_of_its_prompt(self, engine, runner, fakes):
        generation = engine.submit(fakes.request(500))
        engine.step()
        generation.cancel()
        assert not engine.step()
        assert runner.n_open_samplers == 0

    def test_queued(self, fakes):
        runner = fakes.Runner(n_sequences=1)
        engine = Engine(runner, max_queued=1)
        requests = [fakes.request(3, 5, first=i) for i in range(3)]
        first, queued = engine.submit(requests[0]), engine.submit(requests[1])
        queued.cancel()
        assert engine.stats().queued == 1  # the first, for which a slot is free
        third = engine.submit(requests[2])
        fakes.drive(engine)
        assert fakes.tokens(first) == fakes.alone(requests[0])
        assert fakes.tokens(third) == fakes.alone(requests[2])
        assert runner.n_open_samplers == 0

    def test_while_its_step_runs(self, engine, runner, fakes):
        generation = engine.submit(fakes.request(3, 100, ignore_eos=True))
        engine.step()
        runner.before_run = generation.cancel
        engine.step()
        assert runner.n_open_samplers == engine.stats().running == 0
        assert not engine.step()
        assert engine.stats().cancelled == 1

    def test_after_the_end_does_nothing(self, engine, fakes):
        request = fakes.request(3, 3, ignore_eos=True)
        generation = engine.submit(request)
        fakes.drive(engine)
        generation.cancel()
        assert fakes.tokens(generation) == fakes.alone(request)
        assert engine.stats().cancelled == 0

    def test_leaving_events_early_cancels(self, engine, fakes):
        generation = engine.submit(fakes.request(3, 100, ignore_eos=True))
        engine.step()
        events = generation.events()
        next(events)
        events.close()
        assert not engine.step()
        assert engine.stats().cancelled == 1

    def test_one_slot_is_reused_cleanly(self, fakes):
        engine = Engine(fakes.Runner(n_sequences=1))
        engine.submit(fakes.request(70, 9)).cancel()
        request = fakes.request(5, 9, first=3)
        generation = engine.submit(request)
        fakes.drive(engine)
        assert fakes.tokens(generation) == fakes.alone(request)


STATES = ["queued", "in prefill", "decoding", "preempted", "finished"]


class TestEnding:
    """A generation that its caller ends, in every state it can be in."""

    @pytest.fixture
    def crowded(self, fakes):
        """An engine for two, and a generation in the state asked for."""
        runner = fakes.Runner(n_ctx=130, n_batch=16, n_sequences=2)
        engine = Engine(runner)

        def reach(state):
            others = [fakes.request(20, 40, first=100 * i, ignore_eos=True) for i in (1, 2)]
            n_before = {"queued": 2, "finished": 0}.get(state, 1)
            generations = [engine.submit(request) for request in others[:n_before]]
            long = {"in prefill": (60, 5), "preempted": (20, 100)}.get(state, (10, 30))
            if state == "preempted":
                others[0] = fakes.request(20, 100, first=100, ignore_eos=True)
                generations[0].cancel()
                generations[0] = engine.submit(others[0])
            request = fakes.request(*long, first=600, ignore_eos=True)
            generation = engine.submit(request)
            sequence = list(engine._live)[-1]
            reached = {
                "queued": lambda: engine.stats().steps == 3,
                "in prefill": lambda: 0 < sequence.n_computed < 60,
                "decoding": lambda: sequence.n_generated > 3,
                "preempted": lambda: engine.stats().preempted,
                "finished": lambda: sequence not in engine._live,
            }[state]
            while not reached():
                engine.step()
                fakes.check(engine)
            return generation, sequence, list(zip(others, generations, strict=False))

        yield engine, reach
        engine.stop()
        assert runner.empty

    @pytest.mark.parametrize("state", STATES)
    @pytest.mark.parametrize("how", ["cancel", "finish"])
    def test_only_its_own_row_goes(self, crowded, fakes, state, how):
        engine, reach = crowded
        generation, sequence, others = reach(state)
        before = engine.stats()
        getattr(generation, how)()
        engine.step()
        fakes.check(engine)
        assert sequence not in engine._live
        assert sequence.slot is None
        after = engine.stats()
        assert after.cancelled - before.cancelled == (how == "cancel" and state != "finished")
        assert after.finished - before.finished == (how == "finish" and state != "finished")
        fakes.drive(engine)
        for request, other in others:
            assert fakes.tokens(other) == fakes.alone(request)

    def test_finish_keeps_what_was_counted_and_ends_the_stream(self, engine, fakes):
        generation = engine.submit(fakes.request(30, 100, ignore_eos=True))
        for _ in range(5):
            engine.step()
        generation.finish()
        generation.cancel()
        assert not generation.cancelled
        assert not engine.step()
        assert list(generation.events()) == []
        stats = engine.stats()
        assert (stats.finished, stats.cancelled, stats.cached_entries) == (1, 0, 1)
        assert (stats.prompt_tokens, stats.generated_tokens) == (30, 5)


class TestAsync:
    def test_iteration(self, runner, fakes):
        requests = [fakes.request(3, 30, first=i) for i in range(8)]

        async def ask(engine, request):
            return [e.token async for e in engine.submit(request) if e.token is not None]

        async def main(engine):
            return await asyncio.gather(*(ask(engine, request) for request in requests))

        with Engine(runner) as engine:
            assert asyncio.run(main(engine)) == [fakes.alone(r) for r in requests]

    def test_an_error_is_raised_in_the_loop(self, runner, fakes):
        async def main(engine):
            runner.fail = EngineError("decode failed")
            with pytest.raises(EngineError, match="decode failed"):
                async for _ in engine.submit(fakes.request(3, 30)):
                    pass

        with Engine(runner) as engine:
            asyncio.run(main(engine))

    def test_aclose_cancels(self, engine, fakes):
        async def main():
            generation = engine.submit(fakes.request(3, 30, ignore_eos=True))
            engine.step()
            async with aclosing(aiter(generation)) as events:
                await anext(events)
            assert generation.cancelled

        asyncio.run(main())
        assert not engine.step()

    def test_break_cancels(self, engine, fakes):
        async def main():
            generation = engine.submit(fakes.request(3, 30, ignore_eos=True))
            engine.step()
            async with aclosing(generation):
                async for _ in generation:
                    break
            assert generation.cancelled

        asyncio.run(main())

    def test_a_cancelled_task_cancels_its_generation(self, engine, fakes):
        async def consume(generation):
            async for _ in generation:
                pass

        async def main():
            generation = engine.submit(fakes.request(3, 30, ignore_eos=True))
            task = asyncio.create_task(consume(generation))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert generation.cancelled

        asyncio.run(main())
        assert not engine.step()

    def test_a_loop_that_is_gone_cancels(self):
        cancelled = []
        generation = Generation(cancelled.append)
        loop = asyncio.new_event_loop()
        loop.close()
        generation._wake = lambda: loop.call_soon_threadsafe(print)
        generation.deliver(TokenEvent(1))
        assert cancelled == ["cancelled"]
