from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
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
from llamacart.values.report import Fault
from llamacart.values.sampling import SamplingParams
from llamacart.values.steering import Dose
from llamacart_server.engine.engine import Engine, Generation
from llamacart_server.engine.request import GenerationRequest, PlacedDose, TokenEvent
from llamacart_server.engine.sequence import Sequence


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
def engine(runner, fakes):
    """Not started: the test calls `step`."""
    engine = Engine(runner)
    yield engine
    if not engine._stopping:
        fakes.check(engine)
    engine.stop()
    assert runner.empty


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
        assert runner.empty
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
        assert runner.n_open_samplers == 0
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
        assert engine.stats().running == 1
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
        assert runner.n_open_samplers == 0

    def test_queued(self, fakes):
        runner = fakes.Runner(n_sequences=1)
        engine = Engine(runner, max_queued=1)
        requests = [fakes.request(3, 5, first=i) for i in range(3)]
        first, queued = engine.submit(requests[0]), engine.submit(requests[1])
        queued.cancel()
        assert engine.stats().queued == 1  # the first, for which a slot is free
        third = engine.submit(requests[2])
        drive(engine)
        assert tokens(first) == fakes.alone(requests[0])
        assert tokens(third) == fakes.alone(requests[2])
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
        drive(engine)
        for request, other in others:
            assert tokens(other) == fakes.alone(request)

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
        assert [tokens(g) for g in generations] == [fakes.alone(r) for r in requests]
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
        drive(engine)
        assert [tokens(g) for g in generations] == [fakes.alone(r) for r in requests]
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
        drive(engine)
        assert tokens(follower) == fakes.alone(request)
        assert follower.report.cached_tokens == (64 if how == "cancel" else 0)

    def test_a_leader_whose_rows_are_gone_costs_the_follower_nothing_but_time(
        self, engine, runner, fakes
    ):
        request = fakes.request(200, 5)
        generations = [engine.submit(request) for _ in range(2)]
        engine.step()
        runner.forgets = {0}
        drive(engine)
        assert [tokens(g) for g in generations] == [fakes.alone(request)] * 2
        assert generations[1].report.cached_tokens == 0

    def test_a_long_prompt_delays_nobody_by_more_than_one_chunk(self, fakes):
        runner = fakes.Runner(n_batch=256)
        engine = Engine(runner, prefill_rows=16)
        talker_request = fakes.request(5, 300, ignore_eos=True)
        talker = engine.submit(talker_request)
        engine.step()
        newcomer = engine.submit(fakes.request(2000, 3, first=7))
        drive(engine)
        for batch in runner.batches[1:126]:
            assert batch.sequences[0] == 0
            assert len(batch.tokens) == 17
        assert tokens(talker) == fakes.alone(talker_request)
        assert len(tokens(newcomer)) == 3

    def test_cached_tokens_are_known_before_the_first_token(self, engine, fakes):
        engine.submit(fakes.request(30, 2))
        drive(engine)
        generation = engine.submit(fakes.request(40, 9, ignore_eos=True))
        while not generation._items:
            engine.step()
        assert generation.report.cached_tokens == 30


class TestReport:
    def test_doses_are_averaged_over_rows_where_something_acts(self, engine, runner, fakes):
        cartridge = fakes.cartridge("french")
        engine.load(cartridge)
        request = fakes.request(
            100, 5, (cartridge, -0.5, "generated"), ignore_eos=True, telemetry=True
        )
        generation = engine.submit(request)
        engine.step()
        engine.step()
        assert np.isnan(generation.report.dose[0]), "nothing has acted yet"
        drive(engine)
        assert generation.report.dose[0] == pytest.approx(0.5)
        assert np.isnan(generation.report.dose[1])
        mixed = engine.submit(
            fakes.request(
                6,
                5,
                (cartridge, 1.0, "all"),
                (cartridge, 2.0, "generated"),
                first=500,
                ignore_eos=True,
                telemetry=True,
            )
        )
        drive(engine)
        assert mixed.report.dose[0] == pytest.approx((6 * 1.0 + 4 * 3.0) / 10)

    def test_nothing_is_observed_where_nobody_asked(self, engine, runner, fakes):
        cartridge = fakes.cartridge("french")
        engine.load(cartridge)
        doses = (cartridge, 1.0, "all")
        silent = engine.submit(fakes.request(5, 20, doses, ignore_eos=True))
        engine.step()
        told = engine.submit(fakes.request(5, 3, doses, first=9, telemetry=True, ignore_eos=True))
        drive(engine)
        assert silent.report.dose is None
        assert told.report.dose is not None
        observed = [b.observed for b in runner.batches]
        assert observed[0] is None
        assert observed[1] == [False] + [True] * 5
        assert observed[-1] is None

    def test_a_sample_is_the_last_row_of_the_prompt_and_the_first_after_it(
        self, engine, runner, fakes
    ):
        cartridge = fakes.cartridge("french")
        engine.load(cartridge)
        doses = ((cartridge, 1.0, "prompt"), (cartridge, 3.0, "generated"))
        request = fakes.request(5, 9, *doses, ignore_eos=True)
        sampled = engine.submit(replace(request, sample_dose=True))
        drive(engine)
        assert sampled.report.mean_dose == pytest.approx((1.0 + 3.0) / 2)
        assert sampled.report.dose is None, "nobody asked for each layer's"
        observed = [b.observed for b in runner.batches]
        assert observed[:3] == [[False] * 4 + [True], [True], None]
        silent = engine.submit(replace(request, prompt=(7, 8, 9)))
        drive(engine)
        assert silent.report.mean_dose is None

    def test_rows_computed_again_are_not_counted_again(self, fakes):
        runner = fakes.Runner(n_ctx=130, n_batch=32, n_sequences=2, n_cached=0)
        engine = Engine(runner)
        cartridge = fakes.cartridge("french")
        engine.load(cartridge)
        engine.submit(fakes.request(10, 100, ignore_eos=True))
        runner.caps = dict.fromkeys(range(600, 608), 2)
        generation = engine.submit(
            fakes.request(
                10,
                100,
                (cartridge, 1.0, "prompt"),
                (cartridge, 3.0, "generated"),
                first=599,
                telemetry=True,
                ignore_eos=True,
            )
        )
        request = list(engine._live)[1].request
        drive(engine)
        assert engine.stats().preempted == 1
        n_capped = sum(t in runner.caps for t in (*request.prompt, *fakes.alone(request)[:-1]))
        assert generation.report.capped_rows == n_capped
        assert sum(sum(b.observed or ()) for b in runner.batches) == 109
        assert generation.report.dose[0] == pytest.approx((10 * 1.0 + 99 * 3.0) / 109)

    def test_capped_rows_are_summed_and_told_once(self, engine, runner, fakes, caplog):
        runner.caps = {3: 1, 4: 5, 900: 1}
        generation = engine.submit(fakes.request(200, 1, ignore_eos=True))
        drive(engine)
        assert (generation.report.capped_rows, engine.stats().capped_rows) == (2, 2)
        assert [r.levelname for r in caplog.records] == ["WARNING"]

    def test_a_fault_ends_its_sequence_only(self, engine, runner, fakes):
        good_request = fakes.request(20, 5, ignore_eos=True)
        good = engine.submit(good_request)
        bad = engine.submit(fakes.request(20, 5, first=500))
        runner.faults = {515: Fault(7, "french")}
        drive(engine)
        with pytest.raises(EngineError, match=r"'french'.* layer 7"):
            tokens(bad)
        assert tokens(good) == fakes.alone(good_request)
        assert (engine.stats().failed, engine.stats().cached_entries) == (1, 1)

    def test_a_fault_in_a_row_without_output_counts_too(self, engine, runner, fakes):
        bad = engine.submit(fakes.request(100, 5))
        runner.faults = {5: Fault(7, "french")}
        engine.step()
        assert engine.stats().failed == 1
        with pytest.raises(EngineError, match="french"):
            tokens(bad)


class TestLogprobs:
    @pytest.fixture
    def request_(self, fakes):
        return replace(fakes.request(30, 9, ignore_eos=True), logprobs=2, prompt_logprobs=True)

    def test_of_prompt_and_answer(self, engine, fakes, request_):
        generation = engine.submit(request_)
        drive(engine)
        prompt, events = fakes.alone_scored(request_)
        got = list(generation.events())
        assert [replace(event, finish_reason=None) for event in got] == events
        assert generation.report.prompt_logprobs == prompt
        assert [len(s.top) for s in prompt] == [2] * 29

    def test_those_of_the_prompt_are_there_with_the_first_token(self, engine, fakes, request_):
        generation = engine.submit(request_)
        while not generation._items:
            engine.step()
        assert len(generation.report.prompt_logprobs) == 29
        drive(engine)

    def test_the_token_that_ends_has_one_too(self, engine, fakes):
        seed = next(i for i in range(1000) if len(fakes.alone(fakes.request(2, 50, seed=i))) < 40)
        request = replace(fakes.request(2, 50, seed=seed), logprobs=0)
        generation = engine.submit(request)
        drive(engine)
        last = list(generation.events())[-1]
        assert (last.token, last.finish_reason) == (None, "stop")
        assert last.logprobs == fakes.alone_scored(request)[1][-1].logprobs
        assert last.logprobs.token == fakes.END

    def test_nothing_is_read_unless_asked_for(self, engine, runner, fakes):
        runner.broken_scores = RuntimeError("not to be called")
        generation = engine.submit(fakes.request(30, 9))
        drive(engine)
        assert [e.logprobs for e in generation.events()] == [None] * len(
            fakes.alone_scored(fakes.request(30, 9))[1]
        )
        assert generation.report.prompt_logprobs == ()

    def test_a_prompt_alone(self, engine, runner, fakes, request_):
        request = replace(request_, max_tokens=0)
        generation = engine.submit(request)
        drive(engine)
        assert list(generation.events()) == [TokenEvent(None, "length")]
        assert generation.report.prompt_logprobs == fakes.alone_scored(request)[0]
        assert (engine.stats().finished, engine.stats().prompt_tokens) == (1, 30)
        assert engine.stats().generated_tokens == 0

    def test_a_prompt_of_one_token_has_none(self, engine, fakes, request_):
        request = replace(request_, prompt=(5,), max_tokens=0)
        generation = engine.submit(request)
        drive(engine)
        assert list(generation.events()) == [TokenEvent(None, "length")]
        assert generation.report.prompt_logprobs == ()

    def test_the_cache_changes_nothing_for_it_and_its_rows_serve_others(
        self, engine, runner, fakes, request_
    ):
        plain = replace(request_, logprobs=None, prompt_logprobs=False)
        for request, n_cached in ((plain, 0), (request_, 0), (plain, 29)):
            generation = engine.submit(request)
            drive(engine)
            assert tokens(generation) == fakes.alone(request)
            assert generation.report.prompt_logprobs == fakes.alone_scored(request)[0]
            assert generation.report.cached_tokens == n_cached

    def test_a_failure_to_read_ends_those_who_asked_alone(self, engine, runner, fakes, request_):
        runner.broken_scores = RuntimeError("broken")
        plain_request = fakes.request(5, 3, first=7)
        asking, plain = engine.submit(request_), engine.submit(plain_request)
        drive(engine)
        with pytest.raises(EngineError, match="broken"):
            list(asking.events())
        assert tokens(plain) == fakes.alone(plain_request)


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
        drive(engine)
        stats = engine.stats()
        assert (stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens) == (17, 6, 10)
        assert (stats.kv_used, stats.kv_cached, stats.cached_entries) == (14 + 5, 14 + 5, 2)
        engine.stop()
        assert (engine.stats().kv_used, engine.stats().cached_entries) == (0, 0)

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
        generation = Generation(cancelled.append)
        loop = asyncio.new_event_loop()
        loop.close()
        generation._wake = lambda: loop.call_soon_threadsafe(print)
        generation.deliver(TokenEvent(1))
        assert cancelled == ["cancelled"]


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
        assert engine.stats().running == 0
    assert together == alone
    assert alone[0] == alone[2] != alone[1]
    assert "six, seven" in demo_model.detokenize(alone[0])


@pytest.mark.model
def test_llama_runner_names_a_setting_that_cannot_be(demo_model):
    with pytest.raises(InputError, match="n_sequences has value 64"):
        LlamaRunner(demo_model, n_batch=32, n_sequences=64)
