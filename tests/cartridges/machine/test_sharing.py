"""Threads by what other programs leave: from the system's figures, never from a stopwatch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from llamacart.hook.control import Field
from llamacart.hook.steering_hook import SteeringHook
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.machine import sharing
from llamacart.machine.sharing import (
    SECONDS_BETWEEN_LOOKS,
    Sharing,
    Usage,
    others_between,
    read_usage,
)
from llamacart.values.batch import Batch


class Machine:
    """A machine whose clock and programs are moved by hand."""

    def __init__(self) -> None:
        self.now = Usage(0.0, 0.0, 0.0)

    def run(self, seconds: float, *, own: float, others: float) -> None:
        """Let time pass while we and others keep so many processors busy."""
        now = self.now
        self.now = Usage(
            now.clock + seconds, now.all + seconds * (own + others), now.own + seconds * own
        )

    def sharing(self) -> Sharing:
        return Sharing(lambda: self.now, lambda: self.now.clock)


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "usable_processors", lambda: 2)


@pytest.mark.parametrize(
    ("processors", "most", "others", "expected"),
    [
        (2, 2, 0.0, 2),
        (2, 2, 0.4, 2),
        (2, 2, 1.0, 1),
        (2, 2, 2.0, 1),
        (8, 8, 2.0, 6),
        (8, 8, 1.7, 6),
        (8, 4, 3.0, 4),
        (8, 4, 7.9, 1),
        (64, 4, 30.0, 4),
    ],
)
def test_threads_by_what_others_leave(
    monkeypatch: pytest.MonkeyPatch, processors: int, most: int, others: float, expected: int
) -> None:
    monkeypatch.setattr(sharing, "usable_processors", lambda: processors)
    machine = Machine()
    shares = machine.sharing()
    machine.run(1.0, own=1.0, others=others)
    assert shares.threads(most) == expected


def test_they_come_back_when_others_stop() -> None:
    machine = Machine()
    shares = machine.sharing()
    assert shares.threads(2) == 2
    machine.run(0.3, own=1.0, others=1.0)
    assert shares.threads(2) == 1
    machine.run(0.3, own=1.0, others=0.0)
    assert shares.threads(2) == 2


def test_it_does_not_look_before_there_is_something_to_see() -> None:
    machine = Machine()
    shares = machine.sharing()
    machine.run(SECONDS_BETWEEN_LOOKS / 2, own=0.0, others=2.0)
    assert shares.threads(2) == 2
    assert shares.others == 0.0
    assert shares.look() == 2.0


def test_own_time_is_not_that_of_others() -> None:
    assert others_between(Usage(0, 0, 0), Usage(2, 3.5, 3.0)) == pytest.approx(0.25)
    assert others_between(Usage(0, 0, 0), Usage(2, 3.0, 3.1)) == 0.0, "ticks are coarse"
    assert others_between(Usage(1, 0, 0), Usage(1, 3.0, 0)) == 0.0


def test_without_figures_all_threads_are_used() -> None:
    assert Sharing(lambda: None).threads(7) == 7


class TestFigures:
    """Of Linux's /proc/stat."""

    TEXT = (
        "cpu  9 9 9 9 9 9 9 9 9 9\n"
        "cpu0 100 10 20 5000 7 1 2 3 50 0\n"
        "cpu1 200 20 30 5000 7 0 0 0 0 0\n"
        "cpu9 999 999 999 0 0 0 0 0 0 0\n"
        "intr 5\n"
    )

    @pytest.fixture
    def stat(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1}, raising=False)
        monkeypatch.setattr(os, "sysconf", lambda _name: 100, raising=False)
        monkeypatch.setattr(os, "getpriority", lambda _which, _who: 0, raising=False)
        path = tmp_path / "stat"
        path.write_text(self.TEXT)
        return path

    def test_programs_of_lower_priority_give_way(self, stat: Path) -> None:
        usage = read_usage(stat)
        assert usage is not None
        assert usage.all == pytest.approx((100 + 20 + 1 + 2 + 3 + 200 + 30) / 100)

    def test_but_not_to_one_of_their_own(self, stat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "getpriority", lambda _which, _who: 19)
        usage = read_usage(stat)
        assert usage is not None
        assert usage.all == pytest.approx((100 + 20 + 1 + 2 + 3 + 200 + 30 + 10 + 20) / 100)

    @pytest.mark.parametrize("text", [None, "cpu0 1 2\n", "cpu0 a b c d e f g h\n"])
    def test_other_systems_tell_nothing(self, stat: Path, text: str | None) -> None:
        if text is None:
            stat.unlink()
        else:
            stat.write_text(text)
        assert read_usage(stat) is None


class TestContext:
    """What a context and its hook compute with."""

    @pytest.fixture
    def machine(self, monkeypatch: pytest.MonkeyPatch) -> Machine:
        machine = Machine()
        shares = machine.sharing()
        monkeypatch.setattr(sharing, "of_this_process", lambda: shares)
        monkeypatch.setattr("llamacart.llama.context.choose_threads", lambda n: n or 2)
        return machine

    def test_decodes_with_as_many_as_can_run(
        self, tiny_path: Callable[..., Path], machine: Machine
    ) -> None:
        with Model(str(tiny_path()), gpu_layers=0, batch_invariant=True) as model:
            hook = SteeringHook(model, max_rows=8, n_threads=2)
            with Context(model, n_ctx=64, n_batch=8, hook=hook) as context:
                seen, logits = [], []
                for others in (0.0, 1.0, 0.0):
                    machine.run(1.0, own=1.0, others=others)
                    context.clear()
                    context.decode(Batch([5, 6, 7], [0, 1, 2], [0] * 3, [False, False, True]))
                    logits.append(context.logits(2).copy())
                    n = llama_cpp.llama_n_threads(context.handle)
                    seen.append((n, int(hook._block[Field.THREADS])))
        assert seen == [(2, 2), (1, 1), (2, 2)]
        np.testing.assert_array_equal(logits[0], logits[1])
        np.testing.assert_array_equal(logits[0], logits[2])

    def test_a_number_that_was_asked_for_stays(self, tiny_model: Model, machine: Machine) -> None:
        with Context(tiny_model, n_ctx=64, n_batch=8, n_threads=2) as context:
            machine.run(1.0, own=1.0, others=2.0)
            context.decode(Batch([5], [0], [0], [True]))
            assert llama_cpp.llama_n_threads(context.handle) == 2
