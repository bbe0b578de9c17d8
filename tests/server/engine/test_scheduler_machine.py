"""Any order of requests, steps, cancellations and failures: every text stays what it was alone."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from llamacart.errors import EngineError, LlamacartError, NotFoundError, OverloadedError
from llamacart.values.report import Fault
from llamacart.values.sampling import SamplingParams
from llamacart.values.steering import Dose
from llamacart_server.engine.engine import Engine
from llamacart_server.engine.request import GenerationRequest, PlacedDose, TokenEvent

FAULTY = 998
MAX_QUEUED = 6
MAX_QUEUED_TOKENS = 400

# Prompts that share beginnings of different lengths, the longest beyond what is waited for.
SYSTEM = tuple(range(1, 81))
PROMPTS = (
    SYSTEM[:3],
    SYSTEM[:12],
    SYSTEM[:45],
    SYSTEM,
    (*SYSTEM, 200, 201),
    (*SYSTEM[:60], 300, 301, 302),
    tuple(range(500, 530)),
    (7,) * 5,
)

requests = st.builds(
    dict,
    prompt=st.sampled_from(PROMPTS),
    tail=st.lists(st.integers(900, 903), max_size=2),
    max_tokens=st.sampled_from([90, 1, 12, 50, 0]),
    cartridge=st.integers(0, 1),
    alpha=st.sampled_from([1.0, None, 0.0, 0.5]),
    apply_to=st.sampled_from(["all", "prompt", "generated"]),
    seed=st.integers(0, 2),
    faulty=st.sampled_from([False] * 9 + [True]),
    telemetry=st.booleans(),
    logprobs=st.sampled_from([None, 0, 2]),
    prompt_logprobs=st.booleans(),
)


class EngineMachine(RuleBasedStateMachine):
    fakes = None

    @initialize(
        n_ctx=st.sampled_from([150, 200, 130, 400]),
        n_batch=st.sampled_from([32, 8, 64]),
        n_sequences=st.sampled_from([3, 4, 2, 1]),
        n_cached=st.sampled_from([3, 2, 1, 0]),
        host_bytes=st.sampled_from([4000, 0, 1000, 10**6]),
        ordered=st.booleans(),
    )
    def begin(self, n_ctx, n_batch, n_sequences, n_cached, host_bytes, ordered):
        self.runner = self.fakes.Runner(n_ctx, n_batch, n_sequences, n_cached, ordered=ordered)
        self.runner.faults = {FAULTY: Fault(0, "odd")}
        self.engine = Engine(
            self.runner,
            max_queued=MAX_QUEUED,
            max_queued_tokens=MAX_QUEUED_TOKENS,
            host_cache_bytes=host_bytes,
        )
        self.cartridges = [self.fakes.cartridge("a", 1.0), self.fakes.cartridge("b", 2.0)]
        for cartridge in self.cartridges:
            self.engine.load(cartridge)
        self.loaded = [True, True]
        self.open = []

    @rule(asks=st.lists(requests, min_size=1, max_size=8), n_steps=st.integers(0, 10))
    def traffic(self, asks, n_steps):
        for ask in asks:
            self.submit(ask)
        self.steps(n_steps)

    def submit(self, ask):
        doses = ()
        if ask["alpha"] is not None:
            cartridge = self.cartridges[ask["cartridge"]]
            doses = (PlacedDose(Dose(cartridge, ask["alpha"]), ask["apply_to"]),)
        request = GenerationRequest(
            prompt=ask["prompt"] + tuple(ask["tail"]) + (FAULTY,) * ask["faulty"],
            max_tokens=max(ask["max_tokens"], 0 if ask["prompt_logprobs"] else 1),
            doses=doses,
            sampling=SamplingParams(seed=ask["seed"]),
            telemetry=ask["telemetry"],
            logprobs=ask["logprobs"],
            prompt_logprobs=ask["prompt_logprobs"],
        )
        try:
            self.open.append((request, self.engine.submit(request)))
        except NotFoundError:
            assert doses
            assert not self.loaded[ask["cartridge"]]
        except OverloadedError:
            queued = self.engine._scheduler._waiting
            counted = [s.n_prompt for s in queued if s.counted]
            full = sum(counted) + len(request.prompt) > MAX_QUEUED_TOKENS
            assert full or len(counted) == MAX_QUEUED

    @rule(n=st.integers(1, 30))
    def steps(self, n):
        for _ in range(n):
            if not self.step():
                break

    def step(self):
        running = self.engine._scheduler._running
        oldest = min(running, key=lambda s: s.arrival, default=None)
        worked = self.engine.step()
        if oldest is not None and oldest in self.engine._live:
            assert oldest.slot is not None, "the oldest was preempted"
        self.fakes.check(self.engine)
        return worked

    @precondition(lambda self: self.open)
    @rule(data=st.data(), finish=st.booleans(), step_runs=st.booleans())
    def leave(self, data, finish, step_runs):
        _, generation = data.draw(st.sampled_from(self.open))
        end = generation.finish if finish else generation.cancel
        if step_runs:
            self.runner.before_run = end
            self.step()
            self.runner.before_run = lambda: None
        else:
            end()

    @rule(
        what=st.sampled_from(["step", "slot", "restore", "restore again", "reuse"]),
        data=st.data(),
    )
    def make_something_fail(self, what, data):
        if what == "step":
            self.runner.fail = EngineError("decode failed")
            self.step()
            self.runner.fail = None
        elif what == "slot":
            slots = [slot for slot, cells in self.runner.kv.items() if cells]
            if slots:
                self.runner.forgets.add(data.draw(st.sampled_from(slots)))
        elif what == "reuse":
            self.runner.broken_reuse = RuntimeError("broken")
        else:
            self.runner.no_restore = what == "restore"

    @rule(which=st.integers(0, 1))
    def load_or_unload(self, which):
        change = self.engine.unload if self.loaded[which] else self.engine.load
        change(self.cartridges[which])
        self.loaded[which] = not self.loaded[which]

    @invariant()
    def nothing_is_lost_or_counted_wrong(self):
        if not hasattr(self, "engine"):
            return
        waiting = self.engine._scheduler._waiting
        counted = [s.n_prompt for s in waiting if s.counted]
        assert len(counted) <= MAX_QUEUED
        assert sum(counted) <= MAX_QUEUED_TOKENS
        assert [s.arrival for s in waiting] == sorted(s.arrival for s in waiting)

    def teardown(self):
        if not hasattr(self, "engine"):
            return
        for _ in range(20_000):
            if not self.step():
                break
        stats = self.engine.stats()
        assert (stats.running, stats.queued) == (0, 0)
        assert stats.kv_used == stats.kv_cached
        failed = left = 0
        for request, generation in self.open:
            got = []
            try:
                got.extend(generation.events())
            except LlamacartError as error:
                failed += 1
                reasons = ["decode failed"]
                if FAULTY in (*request.prompt, *self.fakes.alone(request)):
                    reasons.append(str(Fault(0, "odd")))
                assert str(error) in reasons  # noqa: PT017
                continue
            if generation.ended_by_caller is None:
                assert FAULTY not in request.prompt
                room = self.runner.n_ctx - len(request.prompt)
                prompt_scores, events = self.fakes.alone_scored(request)
                # A generation that ends without a token still has an event.
                events = events[:room] or [TokenEvent(None)]
                assert [replace(event, finish_reason=None) for event in got] == events
                assert generation.report.prompt_logprobs == prompt_scores
            else:
                left += 1
                assert got == []
        # Whoever leaves during a step that fails counts as failed, and is not told.
        assert failed <= stats.failed <= failed + left
        assert stats.finished + stats.cancelled + stats.failed == len(self.open)
        assert stats.cancelled <= left
        self.engine.stop()
        assert self.runner.empty


def test_every_text_is_what_it_is_alone(fakes):
    run_state_machine_as_test(
        type("Machine", (EngineMachine,), {"fakes": fakes}),
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
