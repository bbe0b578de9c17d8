"""What a stop of the graph costs."""

from __future__ import annotations

import pytest

from llamacart.hook.device import stops
from llamacart.hook.device.stops import Asking, Stops, measure
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.values.batch import Batch


def test_the_graph_stops_at_each_layer_only_when_it_is_to(tiny_model: Model) -> None:
    asking = Asking(tiny_model)
    with Context(tiny_model, n_ctx=8, n_batch=1, n_threads=1, hook=asking) as context:
        seen = []
        for position, asking.stops in enumerate((False, True, False, True)):
            context.decode(Batch([0], [position], [0], [True]))
            seen.append(asking.seen)
    n = tiny_model.n_layer
    assert seen == [0, n, n, 2 * n]


def test_a_stop_is_the_difference_of_neighbours(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock by which each step takes longer than the last, and one with stops 6 more."""
    now = {"time": 0.0, "step": 0}

    def decode(_context: Context, _batch: Batch) -> None:
        step = now["step"]
        now["time"] += 100 + (6 if step % 2 else 0) + 0.001 * step
        now["step"] = step + 1

    monkeypatch.setattr(Context, "decode", decode)
    monkeypatch.setattr(stops.time, "perf_counter", lambda: now["time"])
    found = measure(tiny_model)
    assert found.seconds == pytest.approx(6 / tiny_model.n_layer, rel=1e-3)
    assert found.token == pytest.approx(100, rel=1e-3)
    assert found.n_layer == tiny_model.n_layer


def test_stops_disappear_in_larger_models() -> None:
    found = Stops(seconds=1e-4, token=10e-3, n_layer=20)
    assert found.share == pytest.approx(0.2)
    assert found.negligible_from(1e9) == pytest.approx(4e9)
    assert Stops(0.0, 1e-3, 20).negligible_from(1e9) == 0
