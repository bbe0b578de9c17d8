from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from llamacart_trainer.commands.progress import Progress, clock_time, load_model


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class Told:
    """A progress on something that is no terminal, and the lines that it has printed."""

    def __init__(self, every: float = 5.0) -> None:
        self.clock = Clock()
        self.out = io.StringIO()
        console = Console(file=self.out, markup=False, width=40)
        self.progress = Progress(console, clock=self.clock, every=every)

    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()


def test_a_line_comes_when_some_seconds_have_passed_since_the_last() -> None:
    told = Told()
    told.progress.stage("fit", unit="layer", total=30)
    told.clock.pass_by(4.9)
    told.progress.advance(2)
    assert told.lines() == []
    told.clock.pass_by(0.1)
    told.progress.advance()
    told.progress.advance()
    assert told.lines() == ["fit: layer 3 of 30, 10 %, 0:45 left"]
    told.clock.pass_by(5)
    told.progress.tick()  # as the thread does where nothing is done for long
    assert told.lines()[1:] == ["fit: layer 4 of 30, 13 %, 0:50 left"]


@pytest.mark.parametrize(("attention", "invariant"), [("auto", True), ("off", False)])
def test_a_model_without_flash_attention_promises_nothing_of_batches(
    tiny_path: Callable[..., Path], attention: str, invariant: bool
) -> None:
    told = Told()
    with load_model(str(tiny_path()), 0, attention, told.progress) as model:
        assert model.batch_invariant is invariant


def test_a_line_that_says_nothing_new_comes_six_times_more_seldom() -> None:
    told = Told()
    told.progress.stage("load the model")
    for _ in range(14):
        told.clock.pass_by(5)
        told.progress.tick()
    assert told.lines() == [f"load the model: 0:{n:02} so far" for n in (5, 35)] + [
        "load the model: 1:05 so far"
    ]
    told.progress.doing("weights")
    assert told.lines()[3:] == ["load the model (weights): 1:10 so far"]


def test_time_alone_says_nothing_new_where_time_ends_the_stage() -> None:
    told = Told()
    told.progress.stage("search", unit="trial", budget=600)
    for _ in range(7):
        told.clock.pass_by(5)
        told.progress.tick()
    assert told.lines() == [
        "search: trial 0, 1 %, 9:55 left",
        "search: trial 0, 6 %, 9:25 left",
    ]


def test_what_is_under_way_counts_by_its_parts() -> None:
    told = Told()
    told.progress.stage("measure", unit="point", total=10)
    told.clock.pass_by(10)
    told.progress.part("french at α = 1, 900 tokens", 0.5)
    told.clock.pass_by(5)
    told.progress.part("french at α = 1, 1350 tokens", 0.75)
    told.progress.advance()
    told.clock.pass_by(5)
    told.progress.part("french at α = 2, 450 tokens", 0.25)
    told.clock.pass_by(5)
    told.progress.tick()
    assert told.lines() == [
        "measure (french at α = 1, 900 tokens): point 0 of 10, 5 %, 3:10 left",
        "measure (french at α = 1, 1350 tokens): point 0 of 10, 8 %, 3:05 left",
        "measure (french at α = 2, 450 tokens): point 1 of 10, 12 %, 2:20 left",
    ]


def test_many_may_be_under_way() -> None:
    told = Told()
    told.progress.stage("answers", unit="answer", total=60)
    told.clock.pass_by(8)
    told.progress.within(16)
    told.progress.advance(32)
    told.clock.pass_by(6)
    told.progress.within(8.0)
    assert told.lines() == [
        "answers: answer 0 of 60, 27 %, 0:22 left",
        "answers: answer 32 of 60, 67 %, 0:07 left",
    ]


def test_what_is_told_otherwise_counts_as_a_line() -> None:
    told = Told()
    told.progress.stage("search", unit="trial", budget=600)
    told.clock.pass_by(6)
    told.progress.tell("trial 0: 0.5")
    told.progress.tick()
    told.clock.pass_by(5)
    told.progress.advance()
    assert told.lines() == ["trial 0: 0.5", "search: trial 1, 2 %, 9:49 left"]


def test_a_stage_of_unknown_length_says_how_long_it_has_taken() -> None:
    told = Told(every=0)
    told.progress.stage("load the model")
    told.clock.pass_by(61)
    told.progress.doing("weights")
    assert told.lines() == [
        "load the model: 0:00 so far",
        "load the model (weights): 1:01 so far",
    ]


def test_what_an_earlier_run_has_done_says_nothing_of_the_pace() -> None:
    told = Told(every=0)
    told.progress.stage("answers", unit="answer", total=100, done=60)
    told.clock.pass_by(10)
    told.progress.advance(10)
    assert told.lines()[-1] == "answers: answer 70 of 100, 70 %, 0:30 left"
    told.progress.reach(100)
    assert told.lines()[-1] == "answers: answer 100 of 100, 100 %, 0:00 left"
    told.progress.stage("fit", unit="layer", total=4, done=1)
    told.progress.doing("the cascade")
    assert told.lines()[-1] == "fit (the cascade): layer 1 of 4, 25 %, 0:00 so far"
    told.clock.pass_by(2)
    told.progress.advance()
    assert told.lines()[-1] == "fit (the cascade): layer 2 of 4, 50 %, 0:04 left"


def test_time_left_falls_while_nothing_is_done_and_grows_only_when_that_is_overdue() -> None:
    told = Told(every=0)
    told.progress.stage("answers", unit="answer", total=100)
    told.clock.pass_by(40)
    told.progress.advance(20)  # two seconds each
    for waited, left in ((0, "2:40"), (30, "2:10"), (10, "2:00"), (10, "2:15"), (30, "3:00")):
        told.clock.pass_by(waited)
        told.progress.tick()
        assert told.lines()[-1] == f"answers: answer 20 of 100, 20 %, {left} left"


def test_no_line_is_broken_or_taken_for_markup() -> None:
    told = Told(every=0)
    told.progress.stage("fit [bold]" + 40 * "x", unit="layer", total=2)
    assert told.lines() == [f"fit [bold]{40 * 'x'}: layer 0 of 2, 0 %, 0:00 so far"]


def test_nothing_is_told_before_the_first_stage_and_after_the_end() -> None:
    told = Told(every=0.01)
    with told.progress as progress:
        told.clock.pass_by(9)
        progress.advance()
        progress.doing("something")
        progress.tick()
        assert told.lines() == []
        told.clock.now = 0.0  # the thread finds that no time passes
        progress.stage("fit", total=1)
    told.clock.pass_by(99)
    told.progress.advance()
    assert told.lines() == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599.4, "59:59"), (3661, "1:01:01")]
)
def test_clock_time(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text


TRAIN = """
import sys
from llamacart import cli
from llamacart_trainer.commands import progress
progress.SECONDS_BETWEEN_LINES = 0.0
sys.argv = ["llamacart", "train", *sys.argv[1:]]
cli.main()
"""


def arguments(recipe: Path, model: Path, tmp_path: Path) -> list[str]:
    given = (recipe, "--model", model, "-o", tmp_path / "mine.gguf", "--nice", 0)
    return [sys.executable, "-c", TRAIN, *map(str, given)]


def test_training_into_a_pipe_says_how_far_it_is(
    recipe: Path, tiny_path: Callable[..., Path], tmp_path: Path
) -> None:
    done = subprocess.run(  # noqa: S603
        arguments(recipe, tiny_path(), tmp_path), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.rsplit(", ", 1)[0] for line in done.stdout.splitlines()]
    assert any(line.startswith("load the model: 0:0") for line in lines)
    assert any(line.startswith("prepare: 0:0") for line in lines)
    assert [line for line in lines if line.startswith("train")][-3:] == [
        f"train: layer {number} of 3, {share} %" for number, share in ((1, 33), (2, 67), (3, 100))
    ]
    assert "\x1b" not in done.stdout


def test_training_on_a_terminal_draws_a_bar(
    recipe: Path, tiny_path: Callable[..., Path], tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    done = subprocess.Popen(  # noqa: S603
        arguments(recipe, tiny_path(), tmp_path), stdout=theirs, env=environment
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux says so that the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert done.wait() == 0
    assert "━".encode() in shown
    assert b"layer 3 of 3, 100 %" in shown
    assert b"train: layer" not in shown
