import math
from collections.abc import Iterator
from pathlib import Path

import parts
import pytest
from parts import Line, Setup, Stepper, captured, equality, nothing, speed

from llamacart.hook.steering_hook import Place
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.values.steering import Dose


@pytest.fixture
def setup(tiny_path) -> Iterator[Setup]:
    with Model(str(tiny_path()), batch_invariant=False) as model:
        yield Setup(model, model, "device", neurons=6)


def failed(lines: list[Line]) -> list[str]:
    return [line.name for line in lines if not line.passed]


@pytest.mark.parametrize(
    ("line", "passed"),
    [
        (Line("a", 2.0), True),
        (Line("a", 2.0, 2.0), True),
        (Line("a", 2.1, 2.0), False),
        (Line("a", 2.1, 2.0, at_least=True), True),
        (Line("a", math.nan, 2.0), False),
        (Line("a", math.nan, 2.0, at_least=True), False),
    ],
)
def test_a_line_is_judged_by_its_bound(line: Line, passed: bool) -> None:
    assert line.passed == passed


def test_steps_of_a_tiny_model_are_numpys(setup: Setup) -> None:
    lines = equality(setup)
    assert failed(lines) == []
    assert sum("layers on the device" in line.name for line in lines) == 5


def test_a_hook_that_is_not_on_the_device_fails(setup: Setup, monkeypatch) -> None:
    watch = parts.watch
    monkeypatch.setattr(
        parts,
        "watch",
        lambda model, all_, batch, rows, _place: watch(model, all_, batch, rows, "host"),
    )
    assert [name.split(": ")[1] for name in failed(equality(setup))] == ["layers on the device"] * 5


def test_alpha_0_is_no_cartridge(setup: Setup) -> None:
    zero, one = nothing(setup)
    assert zero.value == 0
    assert one.value > 0


def test_other_rows_than_the_cpus_fail(setup: Setup, monkeypatch) -> None:
    assert [line.value for line in captured(setup)] == [0, 0, 0]
    capture, calls = parts.capture, []

    def wrong(model, texts, **options):
        calls.append(options)
        rows = capture(model, texts, **options)
        if len(calls) == 1:
            rows[2][:] *= 1.1
        return rows

    monkeypatch.setattr(parts, "capture", wrong)
    lines = captured(setup)
    assert failed(lines) == ["capture: error of a layer's rows, largest"]
    assert lines[0].value == pytest.approx(0.1, rel=1e-3)


def test_speed_counts_stops_and_bytes(setup: Setup) -> None:
    found = speed(setup, 2, 20)
    assert [s.shape for s in found[::3]] == ["decode, 1 row", "decode, 16 rows", "prompt, 20 rows"]
    for plain, host, device in zip(found[::3], found[1::3], found[2::3], strict=True):
        assert (plain.stops, plain.copied) == (0, 0)
        assert host.stops == device.stops == setup.model.n_layer
        assert device.copied == device.waits == 0
    assert [s.ratio for s in found[::3]] == [1.0] * 3
    assert all(s.ratio > 0 for s in found)


@pytest.mark.parametrize("place", [None, "host"])
@pytest.mark.parametrize("decodes", [True, False])
def test_a_step_lasts_until_its_logits_are_there(
    setup: Setup, monkeypatch, place: Place | None, decodes: bool
) -> None:
    """Without a callback llama.cpp returns before a device has computed."""
    clock, seen = [0.0], []

    def logits(_context: Context, row: int) -> None:
        seen.append(row)
        clock[0] += 5.0

    monkeypatch.setattr(Context, "logits", logits)
    monkeypatch.setattr(parts.time, "perf_counter", lambda: clock[0])
    steering = (Dose(setup.some(1)[0], 1.0),)
    shape = {"n_rows": 3, "decodes": decodes, "length": 4}
    with Stepper(setup.model, steering, place, **shape) as stepper:
        assert [stepper.step(), stepper.step()] == [5.0, 5.0]
    assert seen == [2, 2]


def test_prompts_and_pairs_are_there() -> None:
    folder = Path(parts.__file__).parents[2] / "cartridges" / "library" / "french"
    assert (folder / "recipe.toml").exists()
    assert len(parts.PROMPTS) == 8
