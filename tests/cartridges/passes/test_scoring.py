"""Teacher-forced scoring against explicit softmax, on tiny random models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.errors import AlphaError, InputError
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.passes import scoring
from llamacart.passes.control_vector import (
    ControlDose,
    ControlVector,
    apply_control,
    fit_control_vector,
    residual_means,
)
from llamacart.passes.generate import greedy
from llamacart.passes.scoring import log_likelihoods, log_sum_exp, reference, score_texts
from llamacart.values.batch import Batch
from llamacart.values.steering import Dose

TEXTS = ["the red house", "one", "a much longer line of text than the others"]


def logits_of(model: Model, tokens: list[int], control: ControlDose | None = None) -> np.ndarray:
    """Logits [T, V] by one decode of one sequence."""
    n = len(tokens)
    with Context(model, n_ctx=64) as context:
        apply_control(context, control)
        context.decode(Batch(tokens, range(n), [0] * n, [True] * n))
        return np.stack([context.logits(i) for i in range(n)]).astype(np.float64)


def shift(model: Model, size: float = 2.0) -> Cartridge:
    neurons = np.arange(0, model.n_ff, 7)
    weight = np.zeros((len(neurons), model.n_ff))
    weight[np.arange(len(neurons)), neurons] = 1.0
    bias = np.full(len(neurons), size)
    layers = tuple(LayerMap.from_dense(layer, neurons, weight, bias) for layer in (0, 2))
    return Cartridge(Metadata("shift"), model.fingerprint, layers)


def test_a_text_is_the_models_own_until_what_a_cartridge_waits_for_is_said(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever steps the rows are computed."""
    monkeypatch.setattr(scoring, "ROWS_PER_DECODE", 7)
    sequences = [tiny_model.tokenize(text) for text in TEXTS]
    own = score_texts(tiny_model, sequences).log_likelihoods
    always = (Dose(shift(tiny_model), 1.0),)
    waiting = (Dose(replace(shift(tiny_model), when=("longer", "house")), 1.0),)
    found = score_texts(tiny_model, sequences, steering=waiting).log_likelihoods
    steered = score_texts(tiny_model, sequences, steering=always).log_likelihoods
    for tokens, before, now, other in zip(sequences, own, found, steered, strict=True):
        said = [b"".join(map(tiny_model.token_bytes, tokens[: n + 1])) for n in range(len(tokens))]
        rows = [n for n, text in enumerate(said) if b"longer" in text or b"house" in text]
        row = rows[0] if rows else len(tokens)
        np.testing.assert_array_equal(now[:row], before[:row])
        assert (now[row:] != before[row:]).all()
        assert (now != other).any()


@pytest.mark.parametrize("outputs", [3, 128])
def test_likelihoods_are_those_of_softmax(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch, outputs: int
) -> None:
    monkeypatch.setattr(scoring, "OUTPUTS_PER_DECODE", outputs)
    monkeypatch.setattr(scoring, "ROWS_PER_DECODE", 48)
    sequences = [tiny_model.tokenize(text) for text in TEXTS * 3]
    for sequence, found in zip(
        sequences, score_texts(tiny_model, sequences).log_likelihoods, strict=True
    ):
        table = log_softmax(logits_of(tiny_model, sequence), axis=1)
        wanted = [table[i, token] for i, token in enumerate(sequence[1:])]
        np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_continuations_are_scored_after_their_prompts(tiny_model: Model) -> None:
    prompts = [tiny_model.tokenize(text) for text in TEXTS]
    continuations = [tiny_model.tokenize(t, add_special=False) for t in ("ab", "", "c")]
    found = log_likelihoods(tiny_model, prompts, continuations)
    assert [len(f) for f in found] == [len(c) for c in continuations]
    whole = score_texts(tiny_model, [prompts[0] + continuations[0]]).log_likelihoods[0]
    np.testing.assert_allclose(found[0], whole[-len(continuations[0]) :], atol=1e-3)


def test_divergence_is_zero_unsteered_and_explicit_softmax_steered(tiny_model: Model) -> None:
    sequences = [tiny_model.tokenize(text) for text in TEXTS]
    base = reference(tiny_model, sequences)
    same = score_texts(tiny_model, sequences, against=base).divergences
    assert same is not None
    assert max(d.max() for d in same) < 1e-5
    vector = ControlVector(np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32))
    dose = ControlDose(vector, 0.7)
    scores = score_texts(tiny_model, sequences, against=base, control=dose)
    assert scores.divergences is not None
    for sequence, found in zip(sequences, scores.divergences, strict=True):
        p = log_softmax(logits_of(tiny_model, sequence), axis=1)[:-1]
        q = log_softmax(logits_of(tiny_model, sequence, dose), axis=1)[:-1]
        np.testing.assert_allclose(found, (np.exp(p) * (p - q)).sum(axis=1), atol=2e-3)
        assert found.min() > 1e-3


def test_a_cartridge_acts_and_alpha_zero_does_not(tiny_model: Model) -> None:
    sequences = [tiny_model.tokenize(text) for text in TEXTS]
    base = reference(tiny_model, sequences)
    cartridge = shift(tiny_model)
    mean = []
    for alpha in (0.0, 0.5, 1.0):
        scores = score_texts(
            tiny_model, sequences, against=base, steering=(Dose(cartridge, alpha),)
        )
        assert scores.divergences is not None
        mean.append(np.concatenate(scores.divergences).mean())
    assert mean[0] < 1e-5 < mean[1] < mean[2]


def test_residual_means_over_some_rows(tiny_model: Model) -> None:
    """Two halves of the rows make the mean of all; the last layer is seen at the last row alone."""
    sequences = [tiny_model.tokenize(text) for text in TEXTS]
    whole = residual_means(tiny_model, sequences)
    rows = [range(1, len(sequence)) for sequence in sequences]
    np.testing.assert_array_equal(residual_means(tiny_model, sequences, rows), whole)
    halves = [[own[::2] for own in rows], [own[1::2] for own in rows]]
    means = [residual_means(tiny_model, sequences, half) for half in halves]
    weights = [sum(map(len, half)) for half in halves]
    np.testing.assert_allclose(
        np.average(means, axis=0, weights=weights)[:-1], whole[:-1], atol=1e-4
    )
    with pytest.raises(InputError, match="sequence 1 has no row"):
        residual_means(tiny_model, sequences, [[1], [0], [1]])


def test_log_sum_exp_does_not_overflow() -> None:
    assert log_sum_exp(np.array([1e4, 1e4], np.float32)) == pytest.approx(1e4 + np.log(2))


def test_refusals(tiny_model: Model) -> None:
    with pytest.raises(InputError, match="fewer than two"):
        score_texts(tiny_model, [[1]])
    with pytest.raises(InputError, match="other texts"):
        score_texts(tiny_model, [[1, 5]], against=reference(tiny_model, [[1, 6]]))
    with pytest.raises(InputError, match="prompt without tokens"):
        log_likelihoods(tiny_model, [[]], [[4]])
    with pytest.raises(InputError, match="without tokens"):
        scoring.visit_logits(tiny_model, [[]], [0], lambda *_: None)
    assert log_likelihoods(tiny_model, [], []) == []


def test_control_vector_moves_the_residual_stream_to_the_target(tiny_model: Model) -> None:
    """With one steered layer, and the layer seen being that one, the fit is exact in the mean."""
    sources = [tiny_model.tokenize(t) for t in ("abc", "bcd")]
    targets = [tiny_model.tokenize(t) for t in ("xyz", "wxy")]
    vector = fit_control_vector(tiny_model, sources, targets, layers=[1])
    assert np.flatnonzero(np.abs(vector.directions).sum(axis=1)).tolist() == [1]
    difference = residual_means(tiny_model, targets) - residual_means(tiny_model, sources)
    np.testing.assert_allclose(vector.directions[1], difference[1], atol=1e-5)


def test_control_directions_sum_to_the_difference(tiny_path) -> None:  # type: ignore[no-untyped-def]
    with Model(str(tiny_path(n_layer=5))) as model:
        sources, targets = [model.tokenize("abc")], [model.tokenize("xyzw")]
        vector = fit_control_vector(model, sources, targets)
        difference = residual_means(model, targets) - residual_means(model, sources)
    np.testing.assert_allclose(vector.directions.sum(axis=0), difference[3], atol=1e-5)
    assert not vector.directions[[0, 4]].any()


def test_control_changes_greedy_text_and_none_ends_it(tiny_model: Model) -> None:
    prompts = [tiny_model.tokenize("abc")]
    directions = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32) * 5
    plain = greedy(tiny_model, prompts, 8)
    assert greedy(tiny_model, prompts, 8, control=ControlDose(ControlVector(directions), 1)) != (
        plain
    )
    with Context(tiny_model, n_ctx=64) as context:
        rows = prompts[0]
        results = []
        for dose in (None, ControlDose(ControlVector(directions), 1.0), None):
            apply_control(context, dose)
            context.clear()
            n = len(rows)
            context.decode(Batch(rows, range(n), [0] * n, [i == n - 1 for i in range(n)]))
            results.append(context.logits(n - 1).copy())
    np.testing.assert_array_equal(results[0], results[2])
    assert np.abs(results[0] - results[1]).max() > 0.01


def test_control_refusals(tiny_model: Model) -> None:
    with pytest.raises(InputError, match="layer 0"):
        fit_control_vector(tiny_model, [[1, 5]], [[1, 6]], layers=[0])
    with pytest.raises(InputError, match="no row after"):
        residual_means(tiny_model, [[1]])
    good = np.zeros((3, 64), np.float32)
    with Context(tiny_model, n_ctx=32) as context:
        with pytest.raises(InputError, match="shape"):
            apply_control(context, ControlDose(ControlVector(good[:2]), 1.0))
        with pytest.raises(AlphaError):
            apply_control(context, ControlDose(ControlVector(good), 11.0))
        with pytest.raises(InputError, match="not finite"):
            apply_control(context, ControlDose(ControlVector(good + np.nan), 1.0))
