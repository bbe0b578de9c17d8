from pathlib import Path

import numpy as np
import pytest
from random_cartridge import random_cartridge
from step_cost import KERNELS, MACHINES, SHAPES, cost, disappears_at, given, table

from llamacart.hook.device.backend import Device
from llamacart.hook.device.graph import Nodes
from llamacart.hook.device.steering import DeviceSteering
from llamacart.llama.model import Model


def test_the_docs_have_what_the_script_prints() -> None:
    page = Path(__file__).parents[3] / "docs" / "metal.md"
    assert table(MACHINES, 150) in page.read_text(encoding="utf-8")


def test_a_larger_model_feels_steering_less() -> None:
    for machine in MACHINES:
        shares = [cost(machine, shape, 150).share_on_device for shape in SHAPES]
        assert shares == sorted(shares, reverse=True)
        for shape in SHAPES:
            own = cost(machine, shape, 150)
            assert own.share_on_device < own.share_by_copies


def test_what_was_measured_replaces_what_was_assumed() -> None:
    other = given(MACHINES, "stop", ["Metal, M2=10"])
    assert [m.stop for m in other if m.name == "Metal, M2"] == [10]
    assert other[1:] == MACHINES[1:]
    assert disappears_at(other[0], 34) == pytest.approx(disappears_at(MACHINES[0], 34) / 10)
    assert given(MACHINES, "bandwidth", ["Metal, M2=90"])[0].bandwidth == 90e9
    with pytest.raises(ValueError, match="no machine is called 'x'"):
        given(MACHINES, "stop", ["x=1"])


def test_the_operations_of_a_step_are_counted(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    for method in ("compute", "compute_into", "write"):
        plain = getattr(Nodes, method)

        def counted(nodes: Nodes, *arguments: object, plain=plain) -> object:
            made.append("one")
            return plain(nodes, *arguments)

        monkeypatch.setattr(Nodes, method, counted)
    monkeypatch.setattr(Device, "supports", lambda *_: True)
    steering = DeviceSteering(tiny_model.n_ff, tiny_model.n_layer, None)
    for layer in range(tiny_model.n_layer):
        steering.learn(layer, 0)
    steering.load(0, random_cartridge(tiny_model, 0, neurons=5, spread=0.01))
    steering.choose([[(0, 1.0)]], [0])
    assert np.count_nonzero(steering.table[:, 0]) == tiny_model.n_layer
    assert len(made) == KERNELS  # nodes that all layers share
    steering.close()
