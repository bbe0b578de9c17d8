"""What all texts begin with is computed once where they are scored or captured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.passes import capture as capture_module
from llamacart.passes import scoring
from llamacart.passes.capture import count_rows, forward, row_numbers
from llamacart.passes.lane import Lane
from llamacart.values.batch import Batch
from llamacart.values.steering import Dose


def shift(model: Model, size: float = 1.0) -> Cartridge:
    neurons = np.arange(0, model.n_ff, 7)
    weight = np.zeros((len(neurons), model.n_ff))
    weight[np.arange(len(neurons)), neurons] = 1.0
    bias = np.full(len(neurons), size)
    layers = tuple(LayerMap.from_dense(layer, neurons, weight, bias) for layer in (0, 2))
    return Cartridge(Metadata("shift"), model.fingerprint, layers)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each decode."""
    rows: list[int] = []
    decode = Context.decode

    def counted(self: Context, batch: Batch) -> None:
        rows.append(len(batch.tokens))
        decode(self, batch)

    monkeypatch.setattr(Context, "decode", counted)
    return rows


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
@pytest.mark.parametrize("outputs", [2, 128])
def test_what_all_texts_begin_with_is_computed_once(
    tiny_path: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    decoded: list[int],
    architecture: str,
    outputs: int,
) -> None:
    """Behind a shared beginning longer than Gemma's sliding window, and in several runs."""
    monkeypatch.setattr(scoring, "OUTPUTS_PER_DECODE", outputs)
    monkeypatch.setattr(scoring, "ROWS_PER_DECODE", 48)
    with Model(str(tiny_path(architecture=architecture))) as model:
        before = model.tokenize("a text that is read by all of them " * 3)
        assert len(before) > 100
        ends = [model.tokenize(t, add_special=False) for t in ("abc" * 8, "x", "wholly other", "")]
        texts = [before + end for end in ends]
        firsts = [len(before) - 1] * 4

        def run() -> dict[tuple[int, int], np.ndarray]:
            found = {}
            decoded.clear()
            dose = (Dose(shift(model), 0.5),)

            def keep(s: int, row: int, logits: np.ndarray) -> None:
                found[s, row] = logits.copy()

            scoring.visit_logits(model, texts, firsts, keep, steering=dose)
            return found

        once, n_once = run(), sum(decoded)
        monkeypatch.setattr(scoring, "LEAST_SHARED", 10**6)
        apart, n_apart = run(), sum(decoded)
    assert n_apart - n_once == 3 * (len(before) - 1)
    assert list(once) == list(apart)
    for place, logits in apart.items():
        np.testing.assert_allclose(once[place], logits, atol=1e-2)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
@pytest.mark.parametrize("n_begin", [0, 3, 90])
def test_rows_are_those_of_each_text_alone(
    tiny_path: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    decoded: list[int],
    architecture: str,
    n_begin: int,
) -> None:
    """To the bit, of every layer, in slices and in lanes, where each layer is changed too."""
    monkeypatch.setattr(capture_module, "ROWS_PER_DECODE", 32)
    with Model(str(tiny_path(architecture=architecture)), batch_invariant=True) as model:
        head = [3 + i % 250 for i in range(n_begin)]
        texts = [head + [40 + s + 7 * i for i in range(n)] for s, n in enumerate((9, 2, 20))]
        # One text goes on another, one is the beginning of a third, one is there twice.
        texts += [[*texts[0], 7, 8], texts[2][:-9], texts[1], [*texts[2][:-4], 9]]
        numbers = row_numbers(texts, shared=True)
        total = count_rows(texts, shared=True)  # no decode of one row, whose kernel is another
        assert total == n_begin + 31 + 3 + 1 + 1 + 1
        assert total == len({int(i) for own in numbers for i in own})

        def seen(sequences: list[list[int]], n_rows: int, *, shared: bool) -> np.ndarray:
            found = np.zeros((model.n_layer, n_rows, model.n_ff), np.float32)

            def visit(layer: int, rows: np.ndarray, h: np.ndarray) -> bool:
                h[:, 5] += 1
                found[layer, rows] = h
                return True

            forward(model, sequences, visit, layers=range(model.n_layer), shared=shared)
            return found

        alone = [seen([text], len(text), shared=False) for text in texts]
        decoded.clear()
        together = seen(texts, total, shared=True)
        assert sum(decoded) == total
        with Lane(model, texts, layers=range(model.n_layer), shared=True) as lane:
            for layer in range(model.n_layer):
                h = lane.advance()
                h[:, 5] += 1
                for own, rows in zip(alone, numbers, strict=True):
                    np.testing.assert_array_equal(h[rows], own[layer])
                    np.testing.assert_array_equal(together[layer, rows], own[layer])
