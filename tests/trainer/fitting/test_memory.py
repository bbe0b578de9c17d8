"""What a fit is counted at beside what it takes, the way it chooses, and its threads."""

from __future__ import annotations

import logging
import re
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llamacart.llama.model import Model
from llamacart.machine import pages
from llamacart_trainer.fitting import aim as aim_module
from llamacart_trainer.fitting import memory as memory_module
from llamacart_trainer.fitting.chunks import split
from llamacart_trainer.fitting.memory import MemoryPlan, plan_memory
from llamacart_trainer.fitting.samples import SampleBuilder
from llamacart_trainer.fitting.settings import FitSettings
from llamacart_trainer.fitting.training import train
from llamacart_trainer.recipe.recipe import Recipe, Task, TextPair

PAIRS = tuple(TextPair(f"{i} is the red number", f"{i} est rouge, ce nombre") for i in range(24))
TASK = Task(Recipe(name="t", threshold=0.1, penalty=1.0), PAIRS, ("as it is", "and so be it"))
SETTINGS = FitSettings(threshold=0.1, penalty=1.0)
RUNNING = Path("/proc/self/task")


@pytest.fixture
def wordy(tiny_path: Callable[..., Path]) -> Iterator[Model]:
    """A model whose vocabulary is most of what a lane takes."""
    with Model(str(tiny_path(n_words=40_000)), batch_invariant=True) as model:
        yield model


def plan(
    model: Model, limit: int, max_rows: int = 200, *, last: bool = True, n_threads: int = 1
) -> MemoryPlan:
    chunks = split(SampleBuilder(TASK, model).build(), max_rows)
    return plan_memory(model, chunks, limit, SETTINGS, last=last, n_threads=n_threads)


@pytest.mark.parametrize("target", ["activation", "residual"])
def test_what_is_counted_is_what_is_taken(
    wordy: Model,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
) -> None:
    """llama.cpp's buffers from its log, and the arrays of a fit from Python's allocator."""
    monkeypatch.setattr(pages, "POSSIBLE", False)  # the log tells what is reserved
    # Passes that come and go before the lanes are opened, and are smaller.
    monkeypatch.setattr(aim_module, "check_residual", lambda *_args, **_more: None)
    monkeypatch.setattr(aim_module, "residual_sizes", lambda *_args, **_more: [1.0] * 3)
    plans: list[MemoryPlan] = []
    values = {"name": "t", "penalty": 1.0, "skip_layers": [-1], "target": target}
    own = {"threshold": 0.1} if target == "activation" else {}
    task = replace(TASK, recipe=Recipe.model_validate(values | own))
    with caplog.at_level(logging.DEBUG, logger="llamacart.llama_cpp"):
        train(task, wordy, max_ubatch_rows=200, on_plan=plans.append)
    sizes = re.findall(r"buffer size = +([\d.]+) MiB", caplog.text)
    buffers = sum(map(float, sizes)) * 2**20
    tracemalloc.start()  # not before: imports take memory, and so does a log
    train(task, wordy, max_ubatch_rows=200)
    arrays = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    (only,) = plans
    assert only.side_by_side
    assert buffers <= only.lanes + only.one_pass + 2**20
    assert arrays <= only.held + 3 * 2**19  # Python's own objects
    assert only.total <= 2 * (buffers + arrays)


def test_lanes_that_stand_take_less(wordy: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than as many as there are threads compute."""
    one, many = (plan(wordy, 1 << 30, last=False, n_threads=n) for n in (1, 99))
    monkeypatch.setattr(pages, "POSSIBLE", False)
    reserved = plan(wordy, 1 << 30, last=False)
    assert one.lanes < many.lanes < reserved.lanes


def test_the_outputs_of_short_texts_decide(wordy: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "POSSIBLE", False)
    roomy = plan(wordy, 1 << 30, last=False)
    assert roomy.side_by_side
    outputs = 8 * wordy.n_vocab * 2 * len(PAIRS)
    assert outputs < roomy.lanes < 3 * outputs
    tight = plan(wordy, outputs, last=False)
    assert not tight.side_by_side
    assert tight.total < outputs


def test_the_quickest_way_that_fits(wordy: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "output_budget", lambda _model: 10**6)
    with_last = plan(wordy, 8 << 30)
    assert (with_last.side_by_side, with_last.with_last) == (True, True)
    without = plan(wordy, with_last.total - 1)
    assert (without.side_by_side, without.with_last) == (True, False)
    assert without.total < with_last.total
    streamed = plan(wordy, without.total - 1)
    assert not streamed.side_by_side
    assert streamed.total <= without.total
    assert "texts one after the other" in str(streamed)
    least = plan(wordy, 1)
    assert not least.side_by_side
    assert str(least).endswith(" with the model; there is no way that takes less")


def test_sums_are_held_where_rows_are_many(wordy: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "ROW_COPIES", 5)  # these layers are narrow
    assert plan(wordy, 1 << 30).gathers
    summed = plan(wordy, 1 << 20)
    assert not summed.gathers
    assert summed.held < plan(wordy, 1 << 30).held
    # Where the layers are wide, sums would take more than the rows.
    monkeypatch.setattr(memory_module, "SQUARES", 10**3)
    assert plan(wordy, 1 << 20).gathers


@pytest.mark.skipif(not RUNNING.exists(), reason="only Linux lists a process' threads")
def test_many_lanes_do_not_start_many_threads(tiny_path: Callable[..., Path]) -> None:
    """Each lane had threads for all processors: here 8 for each of more than 20."""
    with Model(str(tiny_path(n_layer=4)), batch_invariant=True) as model:
        chunks = split(SampleBuilder(TASK, model).build(), 100)
        n_lanes = 2 * len(chunks)
        assert n_lanes > 10
        before = len(list(RUNNING.iterdir()))
        during: list[int] = []
        train(
            TASK, model, max_ubatch_rows=100, n_threads=8,
            on_layer=lambda _report: during.append(len(list(RUNNING.iterdir()))),
        )  # fmt: skip
        assert max(during) - before <= n_lanes + 8
