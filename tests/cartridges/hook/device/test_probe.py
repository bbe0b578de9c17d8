"""On which devices cartridges act."""

from __future__ import annotations

import pytest

from llamacart.hook.device.backend import Device
from llamacart.hook.device.probe import where_steered
from llamacart.llama.model import Model


def test_the_device_that_steered_is_named(tiny_model: Model) -> None:
    assert where_steered(tiny_model, "device") == (["CPU"], None)


def test_rows_of_the_host_are_steered_there(tiny_model: Model) -> None:
    assert where_steered(tiny_model) == ([], None)


def test_why_a_device_does_not_steer(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "supports", lambda *_: False)
    names, refused = where_steered(tiny_model, "device")
    assert names == []
    assert refused is not None
    assert "device CPU does not compute" in refused
