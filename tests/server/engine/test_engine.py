"""The engine over a runner without a model: every answer is what it is alone."""

from __future__ import annotations

import threading
from dataclasses import replace

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
from llamacart.values.sampling import SamplingParams
from llamacart.values.steering import Dose
from llamacart_server.engine.engine import Engine
from llamacart_server.engine.request import GenerationRequest, PlacedDose, TokenEvent
from llamacart_server.engine.sequence import Sequence


class TestResults:
    def test_last_event_of_a_full_length(self, engine, fakes):
        generation = engine.submit(fakes.request(5, 3, ignore_eos=True))
        fakes.drive(engine)
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
        fakes.drive(engine)
        events = list(generation.events())
        assert events[-1] == TokenEvent(None, "stop")
        assert [e.token for e in events[:-1]] == fakes.alone(request)

    def test_ignore_eos_goes_on(self, engine, fakes):
        seed = next(i for i in range(1000) if len(fakes.alone(fakes.request(2, 50, seed=i))) < 40)
        generation = engine.submit(fakes.request(2, 50, seed=seed, ignore_eos=True))
        fakes.drive(engine)
        got = fakes.tokens(generation)
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
        fakes.drive(engine)
        assert [fakes.tokens(g) for g in generations] == [fakes.alone(r) for r in requests]
        assert max(len(set(b.sequences)) for b in engine._runner.batches) == 4

    def test_the_context_bounds_the_answer(self, fakes):
        engine = Engine(fakes.Runner(n_ctx=20))
        generation = engine.submit(fakes.request(15, 500, ignore_eos=True))
        fakes.drive(engine)
        assert len(fakes.tokens(generation)) == 5


class TestApplyTo:
    @pytest.mark.parametrize(
        ("rows", "on_prompt", "on_generated"),
        [("all", True, True), ("prompt", True, False), ("generated", False, True)],
    )
    def test_rows(self, engine, runner, fakes, rows, on_prompt, on_generated):
        cartridge = fakes.cartridge("french")
        engine.load(cartridge)
        engine.submit(fakes.request(3, 3, (cartridge, 1.0, rows), ignore_eos=True))
        fakes.drive(engine)
        steered = [bool(s) for batch in runner.batches for s in batch.steerings]
        assert steered == [on_prompt] * 3 + [on_generated] * 2

    def test_rows_share_the_tuple_itself(self, fakes):
        cartridge = fakes.cartridge("french")
        request = fakes.request(
            3, 3, (cartridge, 1.0, "all"), (cartridge, 2.0, "prompt"), (cartridge, 3.0, "generated")
        )
        sequence = Sequence(request, 3, fakes.Runner.token_bytes)
        assert [d.alpha for d in sequence.steering_at(2)] == [1.0, 2.0]
        assert [d.alpha for d in sequence.steering_at(3)] == [1.0, 3.0]
        assert sequence.steering_at(0) is sequence.steering_at(2)
        assert sequence.steering_at(3) is sequence.steering_at(4)

    def test_a_cartridge_waits_for_its_text(self, engine, runner, fakes):
        """Prompt and generated tokens count alike, whatever the chunks they are computed in."""
        cartridge = replace(fakes.cartridge("facts"), when=("3 4",))
        engine.load(cartridge)
        engine.submit(fakes.request(6, 3, (cartridge, 1.0, "all"), ignore_eos=True))
        fakes.drive(engine)
        tokens = [token for batch in runner.batches for token in batch.tokens]
        steered = [bool(s) for batch in runner.batches for s in batch.steerings]
        assert tokens[:6] == list(range(2, 8))
        assert steered == [False] * 2 + [True] * (len(tokens) - 2)


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
        assert runner.empty
        assert not engine.step()

    def test_whatever_refuses_a_request_leaves_no_use_behind(
        self, engine, runner, fakes, monkeypatch
    ):
        """Not only what was foreseen: a count that is left would keep a cartridge for ever."""
        cartridge = fakes.cartridge("french")
        engine.load(cartridge)

        def refuse(_sequence):
            raise ValueError("unforeseen")

        monkeypatch.setattr(engine._scheduler, "add", refuse)
        with pytest.raises(ValueError, match="unforeseen"):
            engine.submit(fakes.request(3, 3, (cartridge, 1.0, "all")))
        engine.unload(cartridge)
        assert runner.n_open_samplers == 0
        assert not runner.resident

    def test_a_full_queue_refuses_and_counts_no_use(self, fakes):
        runner = fakes.Runner(n_sequences=1)
        engine = Engine(runner, max_queued=1)
        cartridge = fakes.cartridge("french")
        engine.load(cartridge)
        request = fakes.request(3, 3, (cartridge, 1.0, "all"))
        generations = [engine.submit(request), engine.submit(request)]
        with pytest.raises(OverloadedError):
            engine.submit(request)
        fakes.drive(engine)
        assert [fakes.tokens(g) for g in generations] == [fakes.alone(request)] * 2
        engine.unload(cartridge)
        assert runner.n_open_samplers == 0
        assert not runner.resident


class TestPreemption:
    @pytest.mark.parametrize(("n_cached", "host"), [(0, 0), (2, 0), (1, 10**6)])
    def test_texts_stay_the_same(self, fakes, n_cached, host):
        runner = fakes.Runner(n_ctx=200, n_batch=32, n_cached=n_cached)
        engine = Engine(runner, host_cache_bytes=host)
        cartridge = fakes.cartridge("french")
        engine.load(cartridge)
        requests = [
            fakes.request(
                10, 120, (cartridge, 0.5 * i, "generated"), first=90 * i, seed=i, ignore_eos=True
            )
            for i in range(4)
        ]
        generations = [engine.submit(request) for request in requests]
        first = next(iter(engine._live))
        while engine.step():
            fakes.check(engine)
            assert first.slot is not None or first not in engine._live
        assert engine.stats().preempted > 0
        assert [fakes.tokens(g) for g in generations] == [fakes.alone(r) for r in requests]
        assert [g.report.cached_tokens for g in generations] == [0] * 4
        restores = [call for call in runner.calls if call[0] == "restore"]
        assert bool(restores) == bool(host)
        assert engine.stats().prompt_tokens == 40
        assert engine.stats().generated_tokens == 480


class TestSharing:
    def test_many_with_one_prefix_read_it_once(self, engine, runner, fakes):
        system = tuple(range(1, 201))
        requests = [GenerationRequest((*system, 300 + i), 5) for i in range(4)]
        generations = [engine.submit(request) for request in requests]
        fakes.drive(engine)
        assert [fakes.tokens(g) for g in generations] == [fakes.alone(r) for r in requests]
        assert [g.report.cached_tokens for g in generations] == [0, 200, 200, 200]
        assert sum(len(b.tokens) for b in runner.batches) < 201 + 4 * 6
        assert engine.stats().cached_tokens == 600

    @pytest.mark.parametrize("how", ["cancel", "step fails"])
    def test_a_leader_that_ends_early_stops_nobody(self, engine, runner, fakes, how):
        leader = engine.submit(fakes.request(200, 5))
        request = fakes.request(220, 5)
        follower = engine.submit(request)
        engine.step()
        assert engine.stats().queued == 1
        if how == "cancel":
            leader.cancel()
        else:
            runner.fail = EngineError("decode failed")
        fakes.drive(engine)
        assert fakes.tokens(follower) == fakes.alone(request)
        assert follower.report.cached_tokens == (64 if how == "cancel" else 0)

    def test_a_leader_whose_rows_are_gone_costs_the_follower_nothing_but_time(
        self, engine, runner, fakes
    ):
        request = fakes.request(200, 5)
        generations = [engine.submit(request) for _ in range(2)]
        engine.step()
        runner.forgets = {0}
        fakes.drive(engine)
        assert [fakes.tokens(g) for g in generations] == [fakes.alone(request)] * 2
        assert generations[1].report.cached_tokens == 0

    def test_a_long_prompt_delays_nobody_by_more_than_one_chunk(self, fakes):
        runner = fakes.Runner(n_batch=256)
        engine = Engine(runner, prefill_rows=16)
        talker_request = fakes.request(5, 300, ignore_eos=True)
        talker = engine.submit(talker_request)
        engine.step()
        newcomer = engine.submit(fakes.request(2000, 3, first=7))
        fakes.drive(engine)
        for batch in runner.batches[1:126]:
            assert batch.sequences[0] == 0
            assert len(batch.tokens) == 17
        assert fakes.tokens(talker) == fakes.alone(talker_request)
        assert len(fakes.tokens(newcomer)) == 3

    def test_cached_tokens_are_known_before_the_first_token(self, engine, fakes):
        engine.submit(fakes.request(30, 2))
        fakes.drive(engine)
        generation = engine.submit(fakes.request(40, 9, ignore_eos=True))
        while not generation._items:
            engine.step()
        assert generation.report.cached_tokens == 30


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
        fakes.drive(engine)
        assert fakes.tokens(generation) == fakes.alone(request)
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
            assert unloaded.wait(60)

    def test_the_end_of_the_last_user_unloads_though_nothing_else_runs(self, runner, fakes):
        cartridge = fakes.cartridge("french")
        unloaded = threading.Event()
        runner.unload = lambda c: unloaded.set()
        with Engine(runner) as engine:
            engine.load(cartridge)
            runner.before_run = lambda: engine.unload(cartridge)
            engine.submit(fakes.request(3, 1, (cartridge, 1.0, "all"), ignore_eos=True))
            assert unloaded.wait(60)

    def test_loading_again_undoes_a_pending_unload(self, engine, runner, fakes):
        cartridge = fakes.cartridge("french")
        engine.load(cartridge)
        request = fakes.request(3, 5, (cartridge, 1.0, "all"))
        engine.submit(request)
        engine.unload(cartridge)
        engine.load(cartridge)
        engine.submit(request)
        fakes.drive(engine)
        assert list(runner.resident) == [cartridge.content_hash]


class TestLife:
    def test_stop_ends_what_is_open(self, fakes, until):
        runner = fakes.Runner(n_sequences=1)
        engine = Engine(runner)
        running = engine.submit(fakes.request(3, 4000, ignore_eos=True))
        queued = engine.submit(fakes.request(3, 4000, ignore_eos=True))

        def hold():
            if len(runner.batches) > 2:
                until(lambda: engine._stopping)

        runner.before_run = hold
        with engine:
            events = running.events()
            assert next(events).token is not None
        for generation in (events, queued.events()):
            with pytest.raises(OverloadedError, match="stopped"):
                list(generation)
        assert runner.empty

    def test_starts_once(self, runner):
        with Engine(runner) as engine, pytest.raises(RuntimeError, match="once"):
            engine.start()

    def test_stats(self, fakes):
        engine = Engine(fakes.Runner(n_sequences=1))
        engine.submit(fakes.request(10, 5, ignore_eos=True))
        engine.submit(fakes.request(7, 5, ignore_eos=True))
        engine.step()
        stats = engine.stats()
        assert (stats.running, stats.queued, stats.queued_tokens) == (1, 1, 7)
        assert (stats.kv_used, stats.kv_cached, stats.steps) == (10, 0, 1)
        assert (stats.prompt_tokens, stats.generated_tokens) == (10, 1)
        fakes.drive(engine)
        stats = engine.stats()
        assert (stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens) == (17, 6, 10)
        assert (stats.kv_used, stats.kv_cached, stats.cached_entries) == (14 + 5, 14 + 5, 2)
        engine.stop()
        assert (engine.stats().kv_used, engine.stats().cached_entries) == (0, 0)

    def test_it_says_which_cartridges_queued_requests_want(self, fakes):
        engine = Engine(fakes.Runner(n_sequences=1))
        french, polite = fakes.cartridge("french", 1.0), fakes.cartridge("polite", 2.0)
        for cartridge in (french, polite):
            engine.load(cartridge)
        for doses in ([(polite, 1.0, "all")], [(french, 1.0, "all")], [], [(french, 0.5, "all")]):
            engine.submit(fakes.request(5, 5, *doses))
        engine.step()
        assert engine.stats().waiting_cartridges == ("french",)
        fakes.drive(engine)
        assert engine.stats().waiting_cartridges == ()
        engine.stop()

    def test_threads_submit_together(self, runner, fakes):
        requests = [fakes.request(1 + i, 10, first=i, seed=i) for i in range(16)]
        got = {}

        def ask(i):
            got[i] = fakes.tokens(engine.submit(requests[i]))

        with Engine(runner) as engine:
            threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert got == {i: fakes.alone(request) for i, request in enumerate(requests)}


@pytest.mark.model
def test_llama_runner_serves_steered_and_plain_requests_together(demo_model, fakes):
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
        alone = [fakes.tokens(engine.submit(one)) for one in requests]
        generations = [engine.submit(one) for one in requests]
        together = [fakes.tokens(generation) for generation in generations]
        assert engine.stats().running == 0
    assert together == alone
    assert alone[0] == alone[2] != alone[1]
    assert "six, seven" in demo_model.detokenize(alone[0])


@pytest.mark.model
def test_llama_runner_names_a_setting_that_cannot_be(demo_model):
    with pytest.raises(InputError, match="n_sequences has value 64"):
        LlamaRunner(demo_model, n_batch=32, n_sequences=64)
