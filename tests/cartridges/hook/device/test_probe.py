"""On which devices cartridges act."""

from __future__ import annotations

import logging

import pytest

from llamacart.hook.device.backend import Device
from llamacart.hook.device.probe import say_where_steered, where_steered
from llamacart.llama.model import Model
from llamacart.runner import LlamaRunner


def test_the_device_that_steered_is_named(host_model: Model) -> None:
    assert where_steered(host_model, "device") == (["CPU"], None)


def test_rows_of_the_host_are_steered_there(host_model: Model) -> None:
    assert where_steered(host_model) == ([], None)


def test_why_a_device_does_not_steer(host_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "supports", lambda *_: False)
    names, refused = where_steered(host_model, "device")
    assert names == []
    assert refused is not None
    assert "device CPU does not compute" in refused


def test_a_runner_says_where_before_anybody_waits(
    host_model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "llamacart"):
        LlamaRunner(host_model, n_ctx=64, n_batch=16, n_sequences=2).close()
        assert "the host" not in caplog.text
        monkeypatch.setattr(host_model, "uses_device", True)
        LlamaRunner(host_model, n_ctx=64, n_batch=16, n_sequences=2).close()
        assert "no layer lies in the memory of a device" in caplog.text
        say_where_steered(host_model, "device")
        assert "cartridges act in the memory of CPU" in caplog.text
