"""How far a steered run is from another run of the same tokens behind another text."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax

from llamacart.errors import InputError
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.passes.batching import as_batch, rows_of
from llamacart.passes.control_vector import ControlDose, ControlVector, apply_control
from llamacart.passes.forecasts import apart, forecasts


def logits_of(model: Model, tokens: list[int], control: ControlDose | None = None) -> np.ndarray:
    with Context(model, n_ctx=128, n_batch=128, n_outputs=128) as context:
        apply_control(context, control)
        context.decode(as_batch(rows_of([tokens], range(1), lambda _s, _i: True)))
        return np.stack([context.logits(i).copy() for i in range(len(tokens))])


def test_figures_are_those_of_softmax_at_the_tied_rows(tiny_model: Model) -> None:
    answers = [tiny_model.tokenize(text, add_special=False) for text in ("abc def", "ghi")]
    before, plain = tiny_model.tokenize("say: "), tiny_model.tokenize("q")
    behind = [before + answer for answer in answers]
    alone = [plain + answer for answer in answers]
    offsets = [0, 1, 3, 6], []
    tied = [[len(before) - 1 + i for i in own] for own in offsets]
    rows = [[len(plain) - 1 + i for i in own] for own in offsets]
    kept = forecasts(tiny_model, behind, tied)
    assert kept.logits.shape == (4, tiny_model.n_vocab)
    vector = ControlVector(np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32))
    for control in (None, ControlDose(vector, 0.7)):
        found = apart(tiny_model, alone, rows, kept, control=control)
        p = log_softmax(logits_of(tiny_model, behind[0]), axis=1)[tied[0]]
        q = log_softmax(logits_of(tiny_model, alone[0], control), axis=1)[rows[0]]
        wanted = (np.exp(p) * (p - q)).sum(axis=1)
        np.testing.assert_allclose(found.divergences[0], wanted, atol=2e-3)
        np.testing.assert_array_equal(found.agreements[0], p.argmax(axis=1) == q.argmax(axis=1))
        assert [len(each) for each in found.divergences] == [4, 0]
        assert found.divergences[0].min() > 1e-4


def test_a_run_is_nowhere_apart_from_itself(tiny_model: Model) -> None:
    texts = [tiny_model.tokenize(text) for text in ("one two", "three")]
    rows = [range(len(text)) for text in texts]
    found = apart(tiny_model, texts, rows, forecasts(tiny_model, texts, rows))
    assert np.concatenate(found.divergences).max() < 1e-5
    assert np.concatenate(found.agreements).min() == 1.0


def test_other_numbers_of_rows_are_refused(tiny_model: Model) -> None:
    text = tiny_model.tokenize("one two")
    kept = forecasts(tiny_model, [text], [[0, 1]])
    with pytest.raises(InputError, match="other numbers of rows"):
        apart(tiny_model, [text], [[0]], kept)
