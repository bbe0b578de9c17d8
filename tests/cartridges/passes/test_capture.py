"""Captured activations are the graph's, whatever the batching."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from llamacart.errors import InputError
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.llama.tap import Tap
from llamacart.passes import capture as capture_module
from llamacart.passes.capture import capture, forward
from llamacart.values.batch import Batch

DEVICE_TOLERANCE = 0.01
"""Most ‖error‖/‖h‖ of a row in the tests' small models."""


def sequences(*lengths: int) -> list[list[int]]:
    return [[3 + (11 * s + i) % 250 for i in range(n)] for s, n in enumerate(lengths)]


def one_by_one(model: Model, tokens: list[list[int]]) -> dict[int, np.ndarray]:
    """Every row with its logits asked for, one sequence a context: slow and plain."""
    out: dict[int, list[np.ndarray]] = {layer: [] for layer in range(model.n_layer)}

    def keep(layer: int, _rows: np.ndarray, h: np.ndarray) -> bool:
        out[layer].append(h.copy())
        return True

    for sequence in tokens:
        with Context(model, n_ctx=64, n_batch=64, hook=Tap(model, keep)) as context:
            n = len(sequence)
            context.decode(Batch(sequence, list(range(n)), [0] * n, [True] * n))
    return {layer: np.concatenate(parts) for layer, parts in out.items()}


def assert_same_rows(model: Model, got: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for rounding.

    A device computes many rows by other operations than one, and may add up in 16 bits there:
    captured rows were up to 0.4 % of their length from the CPU's on software Vulkan.
    """
    if not model.uses_device:
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        return
    error = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() <= DEVICE_TOLERANCE


def test_equals_one_sequence_at_a_time(tiny_model: Model) -> None:
    tokens = sequences(5, 9, 1, 20)
    expected = one_by_one(tiny_model, tokens)
    got = capture(tiny_model, tokens)
    for layer in range(tiny_model.n_layer):
        assert_same_rows(tiny_model, got[layer], expected[layer])


@pytest.mark.parametrize("copy", [False, True])
def test_slices_and_several_passes(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch, copy: bool
) -> None:
    """A tiny budget and small passes cut sequences in the middle."""
    tokens = sequences(5, 9, 1, 20, 13)
    expected = one_by_one(tiny_model, tokens)
    monkeypatch.setattr(capture_module, "ROWS_PER_DECODE", 8)
    monkeypatch.setattr(capture_module, "LOGITS_BUDGET", 3 * 8 * tiny_model.n_vocab)
    got = capture(tiny_model, tokens, copy=copy)
    for layer in range(tiny_model.n_layer):
        assert_same_rows(tiny_model, got[layer], expected[layer])


def test_more_sequences_than_a_context_holds(tiny_model: Model) -> None:
    tokens = sequences(*[2] * 300)
    got = capture(tiny_model, tokens, layers=[0])
    assert got[0].shape == (600, tiny_model.n_ff)
    np.testing.assert_allclose(
        got[0][598:], one_by_one(tiny_model, tokens[299:])[0], rtol=1e-3, atol=5e-3
    )


def test_chosen_rows_and_layers(tiny_model: Model) -> None:
    tokens = sequences(6, 6)
    everything = capture(tiny_model, tokens)
    chosen = capture(tiny_model, tokens, layers=[1], rows=np.array([2, 7, 11]))
    assert set(chosen) == {1}
    np.testing.assert_allclose(chosen[1], everything[1][[2, 7, 11]], rtol=1e-4, atol=1e-5)


def test_a_visitor_that_stops_ends_the_pass(tiny_model: Model) -> None:
    seen = []

    def visit(layer: int, _rows: np.ndarray, _h: np.ndarray) -> bool:
        seen.append(layer)
        return layer < 1

    forward(tiny_model, sequences(4), visit, layers=range(3))
    assert seen == [0, 1]


def test_a_visitor_that_raises_is_heard(tiny_model: Model) -> None:
    def visit(_layer: int, _rows: np.ndarray, _h: np.ndarray) -> bool:
        raise KeyError("from the visitor")

    with pytest.raises(KeyError, match="from the visitor"):
        forward(tiny_model, sequences(4), visit, layers=[0])


def test_bad_input_is_refused(tiny_model: Model) -> None:
    with pytest.raises(InputError, match="without tokens"):
        capture(tiny_model, [[1, 2], []])


@pytest.mark.model
def test_last_layer_of_gemma_needs_little_memory(demo_model: Model) -> None:
    """The slices keep what llama.cpp reserves for logits under half a gigabyte."""
    assert capture_module.output_budget(demo_model) * demo_model.n_vocab * 8 <= 2**30
    got = capture(demo_model, sequences(*[20] * 5), layers=[demo_model.n_layer - 1])
    assert got[demo_model.n_layer - 1].shape == (100, demo_model.n_ff)
    assert np.isfinite(got[demo_model.n_layer - 1]).all()


def test_ctrl_c_waits_for_the_end_of_the_callback(tiny_model: Model) -> None:
    """Raised in a callback's first line it would be dropped, and the layer with it."""
    seen: list[int] = []

    def visit(layer: int, *_rows: object) -> bool:
        signal.raise_signal(signal.SIGINT)
        seen.append(layer)
        return True

    with pytest.raises(KeyboardInterrupt):
        forward(tiny_model, [[1, 5, 9]], visit, layers=[0, 1])
    assert seen == [0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    forward(tiny_model, [[1, 5, 9]], lambda *_: True, layers=[0, 1])
