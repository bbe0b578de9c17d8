"""A runner that raises anywhere: every generation ends once, nobody waits, nothing is lost.

Where the engine cannot go on it says so, and everybody is told.
"""

from __future__ import annotations

import logging
import operator
from concurrent.futures import CancelledError, Future
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamacart.errors import LlamacartError, NotFoundError, OverloadedError
from llamacart.values.sampling import SamplingParams
from llamacart.values.steering import Dose
from llamacart_server.engine.engine import Engine
from llamacart_server.engine.request import GenerationRequest, PlacedDose

METHODS = (
    "run", "sample", "score", "save", "restore", "compact", "free", "copy", "trim", "load",
    "unload", "clear", "is_end",
)  # fmt: skip
SYSTEM = tuple(range(1, 61))


class ChaosError(Exception):
    """Raised by the runner."""


def chaotic(runner_class, blows):
    """A class of runners that raise before or after what they do.

    Args:
        blows: By method, which of its calls raise, and whether that is after the deed.
    """

    class Runner(runner_class):
        calm = False
        broken = ()

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.counts = dict.fromkeys(METHODS, 0)
            self.broken = []

    def wrap(name):
        def method(self, *args):
            number = self.counts[name]
            self.counts[name] += 1
            after = None if self.calm else blows.get((name, number))
            if after is False:
                raise ChaosError(name)
            try:
                result = getattr(runner_class, name)(self, *args)
            except AssertionError as error:  # the engine would take it for a failed step
                self.broken.append(error)
                raise
            if after:
                raise ChaosError(name)
            return result

        return method

    for name in METHODS:
        setattr(Runner, name, wrap(name))
    return Runner


class Work:
    """Counts how often it is dropped; may raise."""

    def __init__(self, n, raises):
        self.n, self.raises, self.dropped = n, raises, 0

    def advance(self):
        assert not self.dropped
        self.n -= 1
        if self.n <= 0:
            if self.raises:
                raise ChaosError("work")
            return "done"
        return None

    def drop(self):
        self.dropped += 1


asks = st.fixed_dictionaries(
    {
        "prompt": st.sampled_from([SYSTEM[:5], SYSTEM[:30], SYSTEM, (*SYSTEM, 300), (400,) * 20]),
        "max_tokens": st.sampled_from([20, 1, 60]),
        "cartridge": st.sampled_from([None, 0, 1]),
        "seed": st.integers(0, 1),
        "scores": st.booleans(),
        "leaves": st.sampled_from([None, None, "cancel", "finish"]),
        "at": st.integers(0, 30),
    }
)
blows = st.dictionaries(
    st.tuples(st.sampled_from(METHODS), st.sampled_from([0, 1, 2, 3, 5, 8, 13])),
    st.booleans(),
    max_size=8,
)


deadly = st.sampled_from(
    [{}, {("free", 0): False}, {("free", 2): True}, {("free", 1): False, ("clear", 0): False}]
)


class Bedlam:
    """One engine, what was asked of it and what came of it."""

    def __init__(self, fakes, blows, shape):
        self.fakes = fakes
        n_ctx, n_cached, host_bytes, ordered = shape
        self.runner = chaotic(fakes.Runner, blows)(n_ctx, 32, 3, n_cached, ordered=ordered)
        self.engine = Engine(self.runner, host_cache_bytes=host_bytes)
        self.told = 0
        self.engine.when_failed(self.note)
        self.cartridges = [fakes.cartridge("a", 1.0), fakes.cartridge("b", 2.0)]
        for cartridge in self.cartridges:
            self.attempt(self.engine.load, cartridge)
        self.generations = []
        self.works = []

    def note(self):
        self.told += 1

    @staticmethod
    def attempt(function, *args):
        """Call what belongs to its caller: the error is the caller's own."""
        try:
            return function(*args)
        except (ChaosError, NotFoundError, OverloadedError):
            return None

    def step(self):
        """As the engine's thread does."""
        if self.engine.failure is not None:
            return False
        try:
            worked = self.engine.step()
        except Exception as error:
            self.engine._fail(error)
            return False
        self.fakes.check(self.engine)
        return worked

    def submit(self, ask):
        doses = ()
        if ask["cartridge"] is not None:
            doses = (PlacedDose(Dose(self.cartridges[ask["cartridge"]], 1.0)),)
        request = GenerationRequest(
            ask["prompt"],
            ask["max_tokens"],
            doses,
            SamplingParams(seed=ask["seed"]),
            logprobs=1 if ask["scores"] else None,
            prompt_logprobs=ask["scores"],
        )
        generation = self.attempt(self.engine.submit, request)
        if generation is not None:
            self.generations.append((request, generation, ask))

    def begin(self, n, raises, leaves):
        work = Work(n, raises)
        future = self.attempt(self.engine.begin, work)
        if future is not None:
            self.works.append((work, future, leaves))

    def run(self):
        for number in range(5000):
            for _, generation, ask in self.generations:
                if ask["leaves"] and ask["at"] == number:
                    getattr(generation, ask["leaves"])()
            for _, future, leaves in self.works:
                if leaves == number:
                    future.cancel()
            if number == 10:
                self.attempt(self.engine.unload, self.cartridges[0])
                self.attempt(self.engine.load, self.cartridges[0])
            if not self.step() and number > 30:
                return
        raise AssertionError("the engine goes round in circles")

    def judge(self):
        assert not self.runner.broken, self.runner.broken
        stats = self.engine.stats()
        assert stats.finished + stats.cancelled + stats.failed == len(self.generations)
        assert (stats.running, stats.queued) == (0, 0)
        assert all(not r.uses for r in self.engine._residents._residents.values())
        assert self.runner.n_open_samplers == 0
        n_failed = sum(self.outcome(*item) for item in self.generations)
        assert n_failed <= stats.failed
        for work, future, _ in self.works:
            self.judge_work(work, future)
        dead = self.engine.failure is not None
        assert self.told == dead
        if dead:
            # Nothing but a cache that cannot be cleared is the end.
            assert self.engine.failure.message == "clear"

    def outcome(self, request, generation, ask):
        """Whether it failed; where it came to its end, the tokens are right."""
        assert generation._ended
        got = []
        try:
            got.extend(generation.events())
        except LlamacartError as error:
            reasons = {*METHODS, "its rows in the KV cache were lost again"}
            assert error.message.partition("; what acted")[0] in reasons  # noqa: PT017
            return True
        if generation.ended_by_caller is not None:
            return False
        room = self.runner.n_ctx - len(request.prompt)
        prompt_scores, events = self.fakes.alone_scored(request)
        assert [replace(event, finish_reason=None) for event in got] == events[:room]
        assert generation.report.prompt_logprobs == prompt_scores
        return False

    @staticmethod
    def judge_work(work, future: Future):
        assert future.done()
        assert work.dropped == 1
        try:
            assert future.result(0) == "done"
        except CancelledError:
            pass
        except ChaosError:
            assert work.raises
        except LlamacartError as error:
            assert error.message == "clear"  # noqa: PT017

    def serve_afterwards(self):
        """An engine that has not failed still answers, as if nothing had been."""
        self.runner.calm = True
        request = self.fakes.request(40, 12, first=500)
        generation = self.engine.submit(request)
        while self.step():
            pass
        got = [event.token for event in generation.events() if event.token is not None]
        assert got == self.fakes.alone(request)


@pytest.fixture
def silence():
    """Thousands of tracebacks, all of them wanted."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_whatever_raises(fakes, silence):
    seen = set()

    @settings(
        max_examples=150,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(
        blows=st.builds(operator.or_, blows, deadly),
        asked=st.lists(asks, min_size=1, max_size=6),
        works=st.lists(
            st.tuples(st.integers(1, 4), st.booleans(), st.sampled_from([None, 0, 2])), max_size=3
        ),
        shape=st.tuples(
            st.sampled_from([130, 200, 400]),
            st.sampled_from([2, 0, 4]),
            st.sampled_from([10**6, 0, 1000]),
            st.booleans(),
        ),
    )
    def rage(blows, asked, works, shape):
        bedlam = Bedlam(fakes, blows, shape)
        for ask in asked:
            bedlam.submit(ask)
        for work in works:
            bedlam.begin(*work)
        bedlam.run()
        bedlam.judge()
        seen.add("dead" if bedlam.engine.failure else "alive")
        seen.add("reset" if bedlam.engine.stats().cache_resets else "never reset")
        if bedlam.engine.failure is None:
            bedlam.serve_afterwards()
        bedlam.engine.stop()
        if bedlam.engine.failure is None:
            assert bedlam.runner.empty

    rage()
    assert seen == {"dead", "alive", "reset", "never reset"}
