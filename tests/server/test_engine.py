from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.errors import (
    AlphaError,
    CartridgeMismatchError,
    ContextOverflowError,
    EngineError,
    InputError,
    NotFoundError,
    OverloadedError,
)
from llamacart.runner import LlamaRunner
from llamacart.sampling import SamplingParams
from llamacart.steering import Dose
from llamacart_server.engine import Engine, Generation
from llamacart_server.request import GenerationRequest, PlacedDose, TokenEvent
from llamacart_server.sequence import Sequence


def drive(engine):
    while engine.step():
        pass


def tokens(generation):
    return [event.token for event in generation.events() if event.token is not None]


def prompt_of(batch, sequence):
    return [t for t, s in zip(batch.tokens, batch.sequences, strict=True) if s == sequence]


@pytest.fixture
def runner(fakes):
    return fakes.Runner()


@pytest.fixture
def engine(runner):
    """Not started: the test calls `step`."""
    engine = Engine(runner)
    yield engine
    engine.stop()
    assert runner.idle


class TestResults:
    def test_last_event_of_a_full_length(self, engine, fakes):
        generation = engine.submit(fakes.request(5, 3, ignore_eos=True))
        drive(engine)
        events = list(generation.events())
        assert [e.finish_reason for e in events] == [None, None, "length"]
        assert [e.token for e in events] == fakes.alone(fakes.request(5, 3, ignore_eos=True))

    def test_end_of_generation_token_is_not_delivered(self, engine, fakes):
        request = next(
            r
            for r in (fakes.request(2, 50, seed=i) for i in range(1000))
            if 0 < len(fakes.alone(r)) < 50
        )
        generation = engine.submit(request)
        drive(engine)
        events = list(generation.events())
        assert events[-1] == TokenEvent(None, "stop")
        assert [e.token for e in events[:-1]] == fakes.alone(request)

    def test_ignore_eos_goes_on(self, engine, fakes):
        seed = next(i for i in range(1000) if len(fakes.alone(fakes.request(2, 50, seed=i))) < 40)
        generation = engine.submit(fakes.request(2, 50, seed=seed, ignore_eos=True))
        drive(engine)
        got = tokens(generation)
        assert len(got) == 50
        assert fakes.END in got

    def test_many_at_once_equal_each_alone(self, engine, fakes):
        french, polite = fakes.cartridge("french", 1.0), fakes.cartridge("polite", 2.0)
        engine.load(french)
        engine.load(polite)
        places = ("all", "prompt", "generated")
        requests = [
            fakes.request(
                1 + 37 * i % 150,
                1 + 7 * i % 23,
                *([(french, 0.1 * i, places[i % 3])] if i % 2 else []),
                *([(polite, -1.0, places[i % 3])] if i % 5 == 0 else []),
                seed=i,
                first=i,
            )
            for i in range(24)
        ]
        generations = [engine.submit(request) for request in requests]
        drive(engine)
        assert [tokens(g) for g in generations] == [fakes.alone(r) for r in requests]
        assert max(len(set(b.sequences)) for b in engine._runner.batches) == 4

    def test_the_context_bounds_the_answer(self, fakes):
        engine = Engine(fakes.Runner(n_ctx=20))
        generation = engine.submit(fakes.request(15, 500, ignore_eos=True))
        drive(engine)
        assert len(tokens(generation)) == 5


class TestApplyTo:
    @pytest.mark.parametrize(
        ("rows", "on_prompt", "on_generated"),
        [("all", True, True), ("prompt", True, False), ("generated", False, True)],
    )
    def test_rows(self, engine, runner, fakes, rows, on_prompt, on_generated):
        cartridge = fakes.cartridge("french")
        engine.load(cartridge)
        engine.submit(fakes.request(3, 3, (cartridge, 1.0, rows), ignore_eos=True))
        drive(engine)
        steered = [bool(s) for batch in runner.batches for s in batch.steerings]
        assert steered == [on_prompt] * 3 + [on_generated] * 2

    def test_rows_share_the_tuple_itself(self, fakes):
        cartridge = fakes.cartridge("french")
        request = fakes.request(
            3, 3, (cartridge, 1.0, "all"), (cartridge, 2.0, "prompt"), (cartridge, 3.0, "generated")
        )
        sequence = Sequence(request, 3)
        assert [d.alpha for d in sequence.steering_at(2)] == [1.0, 2.0]
        assert [d.alpha for d in sequence.steering_at(3)] == [1.0, 3.0]
        assert sequence.steering_at(0) is sequence.steering_at(2)
        assert sequence.steering_at(3) is sequence.steering_at(4)


class TestSubmit:
    def test_refusals_leave_nothing_behind(self, engine, runner, fakes):
        cartridge = fakes.cartridge("french")
        engine.load(cartridge)
        for error, request in [
            (ContextOverflowError, fakes.request(runner.n_ctx)),
            (InputError, GenerationRequest((), 5)),
            (InputError, GenerationRequest((fakes.N_VOCAB,), 5)),
            (InputError, GenerationRequest((1,), 0)),
            (AlphaError, fakes.request(3, 3, (cartridge, float("nan"), "all"))),
            (NotFoundError, fakes.request(3, 3, (fakes.cartridge("other", 9.0), 1.0, "all"))),
            (
                InputError,
                GenerationRequest((1,), 5, sampling=SamplingParams(logit_bias=((10**6, 1.0),))),
            ),
        ]:
            with pytest.raises(error):
                engine.submit(request)
        assert runner.idle
        assert not engine.step()

    def test_a_full_queue_refuses_and_counts_no_use(self, fakes):
        runner = fakes.Runner(n_sequences=1)
        engine = Engine(runner, max_queued=1)
        cartridge = fakes.cartridge("french")
        engine.load(cartridge)
        request = fakes.request(3, 3, (cartridge, 1.0, "all"))
        generations = [engine.submit(request), engine.submit(request)]
        with pytest.raises(OverloadedError):
            engine.submit(request)
        drive(engine)
        assert [tokens(g) for g in generations] == [fakes.alone(request)] * 2
        engine.unload(cartridge)
        assert runner.idle
        assert not runner.resident


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
        assert list(runner.kv) == [1]
        assert set(runner.batches[-1].sequences) == {1}
        assert list(cancelled.events()) == []
        drive(engine)
        assert tokens(other) == fakes.alone(other_request)
        assert (engine.stats().cancelled, engine.stats().finished) == (1, 1)

    def test_in_the_middle_of_its_prompt(self, engine, runner, fakes):
        generation = engine.submit(fakes.request(500))
        engine.step()
        generation.cancel()
        assert not engine.step()
        assert runner.idle

    def test_queued(self, fakes):
        runner = fakes.Runner(n_sequences=1)
        engine = Engine(runner, max_queued=1)
        requests = [fakes.request(3, 5, first=i) for i in range(3)]
        first, queued = engine.submit(requests[0]), engine.submit(requests[1])
        queued.cancel()
        assert engine.stats().queued == 0
        third = engine.submit(requests[2])
        drive(engine)
        assert tokens(first) == fakes.alone(requests[0])
        assert tokens(third) == fakes.alone(requests[2])
        assert runner.idle

    def test_while_its_step_runs(self, engine, runner, fakes):
        generation = engine.submit(fakes.request(3, 100, ignore_eos=True))
        engine.step()
        runner.before_run = generation.cancel
        engine.step()
        assert runner.idle
        assert not engine.step()
        assert engine.stats().cancelled == 1

    def test_after_the_end_does_nothing(self, engine, fakes):
        request = fakes.request(3, 3, ignore_eos=True)
        generation = engine.submit(request)
        drive(engine)
        generation.cancel()
        assert tokens(generation) == fakes.alone(request)
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
        drive(engine)
        assert tokens(generation) == fakes.alone(request)


class TestCartridges:
    def test_a_mismatch_reaches_the_caller(self, runner, fakes):
        misfit = fakes.cartridge("misfit", fingerprint=None)
        with Engine(runner) as engine, pytest.raises(CartridgeMismatchError, match="misfit"):
            engine.load(misfit)

    def test_load_and_unload_run_on_the_engine_thread(self, runner, fakes):
        seen = []
        load = runner.load
        runner.load = lambda c: (seen.append(threading.current_thread()), load(c))
        with Engine(runner) as engine:
            engine.load(fakes.cartridge("french"))
            engine.load(fakes.cartridge("the same under another name"))
            engine.unload(fakes.cartridge("french"))
            assert not runner.resident
            assert [t.name for t in seen] == ["llamacart-engine"]

    def test_unload_while_in_use_waits_for_the_last_user(self, engine, runner, fakes):
        cartridge = fakes.cartridge("french")
        engine.load(cartridge)
        request = fakes.request(3, 5, (cartridge, 1.0, "all"))
        generation = engine.submit(request)
        engine.step()
        engine.unload(cartridge)
        assert runner.resident
        with pytest.raises(NotFoundError, match="'french' is not loaded"):
            engine.submit(request)
        with pytest.raises(NotFoundError):
            engine.unload(cartridge)
        drive(engine)
        assert tokens(generation) == fakes.alone(request)
        assert not runner.resident

    def test_cancelling_the_last_user_unloads(self, runner, fakes):
        cartridge = fakes.cartridge("french")
        unloaded = threading.Event()
        runner.unload = lambda c: unloaded.set()
        with Engine(runner) as engine:
            engine.load(cartridge)
            request = fakes.request(3, 4000, (cartridge, 1.0, "all"), ignore_eos=True)
            running, queued = engine.submit(request), engine.submit(request)
            engine.unload(cartridge)
            queued.cancel()
            running.cancel()
            assert unloaded.wait(10)

    def test_the_end_of_the_last_user_unloads_though_nothing_else_runs(self, runner, fakes):
        cartridge = fakes.cartridge("french")
        unloaded = threading.Event()
        runner.unload = lambda c: unloaded.set()
        with Engine(runner) as engine:
            engine.load(cartridge)
            runner.before_run = lambda: engine.unload(cartridge)
            engine.submit(fakes.request(3, 1, (cartridge, 1.0, "all"), ignore_eos=True))
            assert unloaded.wait(10)

    def test_loading_again_undoes_a_pending_unload(self, engine, runner, fakes):
        cartridge = fakes.cartridge("french")
        engine.load(cartridge)
        request = fakes.request(3, 5, (cartridge, 1.0, "all"))
        engine.submit(request)
        engine.unload(cartridge)
        engine.load(cartridge)
        engine.submit(request)
        drive(engine)
        assert list(runner.resident) == [cartridge.content_hash]


class TestFailure:
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
        drive(engine)
        assert tokens(queued) == fakes.alone(requests[2])
        for generation in hit:
            events = generation.events()
            assert next(events).finish_reason is None
            with pytest.raises(EngineError, match=str(failure)):
                next(events)
        assert (engine.stats().failed, engine.stats().finished) == (2, 1)
        assert runner.idle

    def test_failed_sampling_ends_one_sequence(self, engine, runner, fakes):
        bad = engine.submit(fakes.request(3, 9, seed=1))
        request = fakes.request(3, 9, seed=2)
        good = engine.submit(request)
        runner.samplers[0].closed = True
        drive(engine)
        with pytest.raises(EngineError):
            tokens(bad)
        assert tokens(good) == fakes.alone(request)

    def test_a_broken_thread_leaves_nobody_waiting(self, runner, fakes):
        engine = Engine(runner)
        generation = engine.submit(fakes.request(3, 9))

        def broken(slot):
            runner.free = lambda _: None
            raise RuntimeError("cannot free")

        runner.free = broken
        with engine:
            with pytest.raises(EngineError, match="cannot free"):
                tokens(generation)
            with pytest.raises(OverloadedError):
                engine.submit(fakes.request(3, 9))
            with pytest.raises(OverloadedError):
                engine.load(fakes.cartridge("french"))


class TestLife:
    def test_stop_ends_what_is_open(self, fakes):
        runner = fakes.Runner(n_sequences=1)
        engine = Engine(runner)
        running = engine.submit(fakes.request(3, 4000, ignore_eos=True))
        queued = engine.submit(fakes.request(3, 4000, ignore_eos=True))
        with engine:
            events = running.events()
            assert next(events).token is not None
        for generation in (events, queued.events()):
            with pytest.raises(OverloadedError, match="stopped"):
                list(generation)
        assert runner.idle

    def test_starts_once(self, runner):
        with Engine(runner) as engine, pytest.raises(RuntimeError, match="once"):
            engine.start()

    def test_stats(self, fakes):
        engine = Engine(fakes.Runner(n_sequences=1))
        engine.submit(fakes.request(10, 5, ignore_eos=True))
        engine.submit(fakes.request(7, 5))
        engine.step()
        stats = engine.stats()
        assert (stats.running, stats.queued, stats.queued_tokens) == (1, 1, 7)
        assert (stats.kv_used_reserved, stats.steps) == (15, 1)
        engine.stop()
        assert engine.stats().kv_used_reserved == 0

    def test_threads_submit_together(self, runner, fakes):
        requests = [fakes.request(1 + i, 10, first=i, seed=i) for i in range(16)]
        got = {}

        def ask(i):
            got[i] = tokens(engine.submit(requests[i]))

        with Engine(runner) as engine:
            threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert got == {i: fakes.alone(request) for i, request in enumerate(requests)}


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
        generation = Generation(lambda: cancelled.append(True))
        loop = asyncio.new_event_loop()
        loop.close()
        generation._wake = lambda: loop.call_soon_threadsafe(print)
        generation.deliver(TokenEvent(1))
        assert cancelled == [True]


@pytest.mark.model
def test_llama_runner_serves_steered_and_plain_requests_together(demo_model):
    neurons = np.arange(256, dtype=np.int32)
    bias = np.full(256, 30.0, np.float32)
    shifts = tuple(LayerMap(layer, neurons, None, bias) for layer in range(4, 14))
    cartridge = Cartridge(Metadata("shift"), demo_model.fingerprint, shifts)
    prompt = tuple(demo_model.tokenize("One, two, three, four, five,"))

    def request(*alphas):
        doses = tuple(PlacedDose(Dose(cartridge, alpha)) for alpha in alphas)
        return GenerationRequest(prompt, 5, doses, SamplingParams(temperature=0.0))

    requests = [request(), request(1.0), request(0.0)]
    runner = LlamaRunner(demo_model, n_ctx=256, n_batch=32, n_sequences=4)
    with runner, Engine(runner) as engine:
        engine.load(cartridge)
        alone = [tokens(engine.submit(one)) for one in requests]
        generations = [engine.submit(one) for one in requests]
        together = [tokens(generation) for generation in generations]
        assert engine.stats().kv_used_reserved == 0
    assert together == alone
    assert alone[0] == alone[2] != alone[1]
    assert "six, seven" in demo_model.detokenize(alone[0])


@pytest.mark.model
def test_llama_runner_names_a_setting_that_cannot_be(demo_model):
    with pytest.raises(InputError, match="n_sequences has value 64"):
        LlamaRunner(demo_model, n_batch=32, n_sequences=64)
