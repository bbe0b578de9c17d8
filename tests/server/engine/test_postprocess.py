"""What a step yields: doses, capped rows, faults and log-probabilities, each to its own request."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from llamacart.errors import EngineError
from llamacart.values.report import Fault
from llamacart_server.engine.engine import Engine
from llamacart_server.engine.request import TokenEvent


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
        fakes.drive(engine)
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
        fakes.drive(engine)
        assert mixed.report.dose[0] == pytest.approx((6 * 1.0 + 4 * 3.0) / 10)

    def test_nothing_is_observed_where_nobody_asked(self, engine, runner, fakes):
        cartridge = fakes.cartridge("french")
        engine.load(cartridge)
        doses = (cartridge, 1.0, "all")
        silent = engine.submit(fakes.request(5, 20, doses, ignore_eos=True))
        engine.step()
        told = engine.submit(fakes.request(5, 3, doses, first=9, telemetry=True, ignore_eos=True))
        fakes.drive(engine)
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
        fakes.drive(engine)
        assert sampled.report.mean_dose == pytest.approx((1.0 + 3.0) / 2)
        assert sampled.report.dose is None, "nobody asked for each layer's"
        observed = [b.observed for b in runner.batches]
        assert observed[:3] == [[False] * 4 + [True], [True], None]
        silent = engine.submit(replace(request, prompt=(7, 8, 9)))
        fakes.drive(engine)
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
        fakes.drive(engine)
        assert engine.stats().preempted == 1
        n_capped = sum(t in runner.caps for t in (*request.prompt, *fakes.alone(request)[:-1]))
        assert generation.report.capped_rows == n_capped
        assert sum(sum(b.observed or ()) for b in runner.batches) == 109
        assert generation.report.dose[0] == pytest.approx((10 * 1.0 + 99 * 3.0) / 109)

    def test_capped_rows_are_summed_and_told_once(self, engine, runner, fakes, caplog):
        runner.caps = {3: 1, 4: 5, 900: 1}
        generation = engine.submit(fakes.request(200, 1, ignore_eos=True))
        fakes.drive(engine)
        assert (generation.report.capped_rows, engine.stats().capped_rows) == (2, 2)
        assert [r.levelname for r in caplog.records] == ["WARNING"]

    def test_a_fault_ends_its_sequence_only(self, engine, runner, fakes):
        good_request = fakes.request(20, 5, ignore_eos=True)
        good = engine.submit(good_request)
        bad = engine.submit(fakes.request(20, 5, first=500))
        runner.faults = {515: Fault(7, "french")}
        fakes.drive(engine)
        with pytest.raises(EngineError, match=r"'french'.* layer 7"):
            fakes.tokens(bad)
        assert fakes.tokens(good) == fakes.alone(good_request)
        assert (engine.stats().failed, engine.stats().cached_entries) == (1, 1)

    def test_a_fault_in_a_row_without_output_counts_too(self, engine, runner, fakes):
        bad = engine.submit(fakes.request(100, 5))
        runner.faults = {5: Fault(7, "french")}
        engine.step()
        assert engine.stats().failed == 1
        with pytest.raises(EngineError, match="french"):
            fakes.tokens(bad)

    def test_a_token_has_the_doses_of_the_row_that_it_was_chosen_from(self, engine, runner, fakes):
        cartridge = fakes.cartridge("french")
        engine.load(cartridge)
        doses = ((cartridge, 1.0, "all"), (cartridge, 2.0, "generated"))
        request = fakes.request(5, 4, *doses, ignore_eos=True, telemetry=True)
        told = engine.submit(replace(request, token_doses=True))
        silent = engine.submit(replace(request, prompt=(7, 8, 9)))
        base = engine.submit(replace(request, prompt=(6,), doses=(), token_doses=True))
        fakes.drive(engine)
        events = list(told.events())
        assert [event.doses[0] for event in events] == [1.0, 3.0, 3.0, 3.0]
        assert all(math.isnan(event.doses[1]) for event in events)
        for other in (silent, base):
            assert [event.doses for event in other.events()] == [None] * 4

    def test_a_preempted_generation_has_the_doses_of_every_token(self, fakes):
        runner = fakes.Runner(n_ctx=130, n_batch=32, n_sequences=2, n_cached=0)
        engine = Engine(runner)
        cartridge = fakes.cartridge("french")
        engine.load(cartridge)
        engine.submit(fakes.request(10, 100, ignore_eos=True))
        doses = (cartridge, 2.0, "all")
        request = fakes.request(10, 100, doses, first=599, telemetry=True, ignore_eos=True)
        told = engine.submit(replace(request, token_doses=True))
        fakes.drive(engine)
        assert engine.stats().preempted == 1
        assert [event.doses and event.doses[0] for event in told.events()] == [2.0] * 100


class TestLogprobs:
    @pytest.fixture
    def request_(self, fakes):
        return replace(fakes.request(30, 9, ignore_eos=True), logprobs=2, prompt_logprobs=True)

    def test_of_prompt_and_answer(self, engine, fakes, request_):
        generation = engine.submit(request_)
        fakes.drive(engine)
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
        fakes.drive(engine)

    def test_the_token_that_ends_has_one_too(self, engine, fakes):
        seed = next(i for i in range(1000) if len(fakes.alone(fakes.request(2, 50, seed=i))) < 40)
        request = replace(fakes.request(2, 50, seed=seed), logprobs=0)
        generation = engine.submit(request)
        fakes.drive(engine)
        last = list(generation.events())[-1]
        assert (last.token, last.finish_reason) == (None, "stop")
        assert last.logprobs == fakes.alone_scored(request)[1][-1].logprobs
        assert last.logprobs.token == fakes.END

    def test_nothing_is_read_unless_asked_for(self, engine, runner, fakes):
        runner.broken_scores = RuntimeError("not to be called")
        generation = engine.submit(fakes.request(30, 9))
        fakes.drive(engine)
        assert [e.logprobs for e in generation.events()] == [None] * len(
            fakes.alone_scored(fakes.request(30, 9))[1]
        )
        assert generation.report.prompt_logprobs == ()

    def test_a_prompt_alone(self, engine, runner, fakes, request_):
        request = replace(request_, max_tokens=0)
        generation = engine.submit(request)
        fakes.drive(engine)
        assert list(generation.events()) == [TokenEvent(None, "length")]
        assert generation.report.prompt_logprobs == fakes.alone_scored(request)[0]
        assert (engine.stats().finished, engine.stats().prompt_tokens) == (1, 30)
        assert engine.stats().generated_tokens == 0

    def test_a_prompt_of_one_token_has_none(self, engine, fakes, request_):
        request = replace(request_, prompt=(5,), max_tokens=0)
        generation = engine.submit(request)
        fakes.drive(engine)
        assert list(generation.events()) == [TokenEvent(None, "length")]
        assert generation.report.prompt_logprobs == ()

    def test_the_cache_changes_nothing_for_it_and_its_rows_serve_others(
        self, engine, runner, fakes, request_
    ):
        plain = replace(request_, logprobs=None, prompt_logprobs=False)
        for request, n_cached in ((plain, 0), (request_, 0), (plain, 29)):
            generation = engine.submit(request)
            fakes.drive(engine)
            assert fakes.tokens(generation) == fakes.alone(request)
            assert generation.report.prompt_logprobs == fakes.alone_scored(request)[0]
            assert generation.report.cached_tokens == n_cached

    def test_a_failure_to_read_ends_those_who_asked_alone(self, engine, runner, fakes, request_):
        runner.broken_scores = RuntimeError("broken")
        plain_request = fakes.request(5, 3, first=7)
        asking, plain = engine.submit(request_), engine.submit(plain_request)
        fakes.drive(engine)
        with pytest.raises(EngineError, match="broken"):
            list(asking.events())
        assert fakes.tokens(plain) == fakes.alone(plain_request)
