"""What a context is counted at beside what llama.cpp says that it has reserved."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from llamacart.llama.footprint import context_bytes
from llamacart.llama.model import Model
from llamacart.passes.capture import forward, forward_bytes
from llamacart.passes.control_vector import residual_means
from llamacart.passes.lane import Lane, lane_bytes
from llamacart.passes.scoring import visit_logits

SHAPES = {"one short": (1, 6), "one long": (1, 400), "many short": (200, 2), "some": (8, 30)}


def reserved(caplog: pytest.LogCaptureFixture) -> int:
    """Bytes of all buffers since the last call, as llama.cpp's log tells them."""
    sizes = re.findall(r"buffer size = +([\d.]+) MiB", caplog.text)
    caplog.clear()
    assert sizes
    return int(sum(map(float, sizes)) * 2**20)


def texts_of(shape: str) -> list[list[int]]:
    n_texts, length = SHAPES[shape]
    return [[1] + [5] * (length - 1)] * n_texts


def check(counted: int, taken: int) -> None:
    """Never under, and not so far over that what fits is thought not to; 64 KiB are padding."""
    assert taken <= counted + 2**16
    assert counted <= 1.6 * taken + 2**18


@pytest.fixture(autouse=True)
def _listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="llamacart.llama_cpp")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
@pytest.mark.parametrize("whole", [False, True])
def test_lanes_of_a_large_vocabulary(
    tiny_path: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
    architecture: str,
    shape: str,
    whole: bool,
) -> None:
    texts = texts_of(shape)
    with Model(str(tiny_path(architecture=architecture, n_words=20_000))) as model:
        layers = range(model.n_layer if whole else model.n_layer - 1)
        caplog.clear()
        with Lane(model, texts, layers=layers) as lane:
            lane.advance()
            taken = reserved(caplog)
        if whole:  # grown by the first decode, without a word
            rows = sum(map(len, texts))
            taken += 4 * model.n_vocab * (rows - len(texts))
        check(lane_bytes(model, texts, layers).reserved, taken)


@pytest.mark.parametrize("shape", SHAPES)
def test_passes(
    tiny_path: Callable[..., Path], caplog: pytest.LogCaptureFixture, shape: str
) -> None:
    texts = texts_of(shape)
    with Model(str(tiny_path(n_words=20_000))) as model:
        caplog.clear()
        forward(model, texts, lambda *_: True, layers=[0])
        check(forward_bytes(model, texts, [0]), reserved(caplog))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_scores_without_flash_attention(
    tiny_path: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
    architecture: str,
    shape: str,
) -> None:
    texts = texts_of(shape)
    path = str(tiny_path(architecture=architecture, n_words=20_000, n_head=8))
    with Model(path, flash_attention="off", batch_invariant=False) as model:
        caplog.clear()
        with Lane(model, texts, layers=range(2)):
            taken = reserved(caplog)
        check(lane_bytes(model, texts, range(2)).reserved, taken)


def test_outputs_are_counted_twice(tiny_path: Callable[..., Path]) -> None:
    with Model(str(tiny_path(n_words=20_000))) as model:
        few, many = (context_bytes(model, n_ctx=512, n_ubatch=512, n_seq_max=n) for n in (100, 200))
        assert many - few == 2 * 100 * 4 * model.n_vocab


@pytest.mark.model
@pytest.mark.parametrize(("n_texts", "length"), [(200, 7), (1, 1000), (24, 40)])
def test_lanes_of_gemma(
    demo_model: Model, caplog: pytest.LogCaptureFixture, n_texts: int, length: int
) -> None:
    """200 texts of 7 tokens: counted at 127 MiB before, where 431 are reserved."""
    texts: Sequence[Sequence[int]] = [[2] + [5] * (length - 1)] * n_texts
    caplog.clear()
    with Lane(demo_model, texts, layers=range(17)):
        taken = reserved(caplog)
    check(lane_bytes(demo_model, texts, range(17)).reserved, taken)


@pytest.mark.parametrize("measure", ["scores", "means"])
def test_a_context_has_room_for_what_runs_together(
    tiny_path: Callable[..., Path], caplog: pytest.LogCaptureFixture, measure: str
) -> None:
    """300 texts of 40 tokens: 12 run at a time, and outputs were reserved for 256."""
    texts = [[5 + k] * 40 for k in range(300)]
    with Model(str(tiny_path(n_words=20_000))) as model:
        caplog.clear()
        if measure == "scores":
            visit_logits(model, texts, [40] * 300, lambda *_: None)
        else:
            residual_means(model, texts)
        taken = reserved(caplog)
        outputs = 128 if measure == "scores" else 12
        counted = context_bytes(model, n_ctx=512, n_ubatch=512, n_seq_max=12, n_outputs=outputs)
    check(counted, taken)
