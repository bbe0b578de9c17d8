"""The switch for flash attention: what it changes, and what it leaves alike."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from llamacart.errors import InputError
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.passes.capture import capture
from llamacart.passes.lane import Lane
from llamacart.values.attention import FLASH_ATTENTION, check_flash_attention
from llamacart.values.batch import Batch

TEXTS = [[1, 5, 9, 7], [1, 8], [1, 30, 31, 32, 33, 34]]
ROUNDING = 0.005
"""Of ‖a - b‖ / ‖b‖: flash attention adds up values in 16 bits."""


def distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def logits(model: Model, n_rows: int) -> NDArray[np.float32]:
    """Of a text, after each row."""
    tokens = [1, *(5 + 7 * i % 200 for i in range(n_rows - 1))]
    with Context(model, n_ctx=256, n_threads=1) as context:
        context.decode(Batch(tokens, list(range(n_rows)), [0] * n_rows, [True] * n_rows))
        return np.stack([context.logits(row) for row in range(n_rows)])


def without(path: Path) -> Model:
    return Model(str(path), gpu_layers=0, flash_attention="off", batch_invariant=False)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_on_and_off_differ_by_rounding_alone(
    tiny_path: Callable[..., Path], architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="llamacart.llama_cpp")
    found, said = {}, {}
    for name in FLASH_ATTENTION:
        path = str(tiny_path(architecture=architecture))
        with Model(path, gpu_layers=0, flash_attention=name, batch_invariant=False) as model:
            caplog.clear()
            found[name] = logits(model, 60)
        (said[name],) = {
            line.split("=")[1].strip() for line in caplog.messages if "flash_attn  " in line
        }
    assert said == {"auto": "auto", "on": "enabled", "off": "disabled"}
    np.testing.assert_array_equal(found["auto"], found["on"])
    assert 0 < distance(found["off"], found["on"]) <= ROUNDING


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_what_a_lane_gives_back_is_not_read_without_it_either(
    tiny_path: Callable[..., Path], architecture: str
) -> None:
    path = tiny_path(architecture=architecture)
    with Model(str(path), gpu_layers=0, batch_invariant=False) as model:
        expected = capture(model, TEXTS)
    with without(path) as model:
        own = capture(model, TEXTS)
        with Lane(model, TEXTS, layers=range(3)) as lane:
            for layer in range(3):
                assert distance(lane.advance(), own[layer]) <= 1e-5
    for layer in range(3):
        assert distance(own[layer], expected[layer]) <= ROUNDING


def test_other_values_are_refused_by_name(tiny_path: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="flash_attention has value 'no'; auto, on, off are") as e:
        Model(str(tiny_path()), flash_attention="no")
    assert e.value.param == "flash_attention"
    for value in ("", "Auto", "1"):
        with pytest.raises(InputError):
            check_flash_attention(value)


def test_rows_that_must_not_depend_on_others_need_it(tiny_path: Callable[..., Path]) -> None:
    path = str(tiny_path())
    with pytest.raises(InputError, match=r"'off'; batch-invariant .* turn batch_invariant off too"):
        Model(path, gpu_layers=0, flash_attention="off", batch_invariant=True)
    with Model(path, gpu_layers=0, flash_attention="on", batch_invariant=True) as model:
        assert model.batch_invariant
