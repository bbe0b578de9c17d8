"""Texts in, texts and activations out, on tiny random models."""

from __future__ import annotations

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.errors import AlphaError, CartridgeMismatchError, InputError, OutOfRangeError
from llamacart.llama.model import Model
from llamacart.passes.capture import capture
from llamacart.passes.generate import greedy
from llamacart.passes.scoring import log_likelihoods
from llamacart.passes.texts import activations, complete
from llamacart.values.sampling import SamplingParams
from llamacart.values.steering import Dose

PROMPTS = ["the red house", "one", "a longer line of text"]
DRAWN = SamplingParams(temperature=1.5, seed=3)


def shift(model: Model, size: float = 3.0) -> Cartridge:
    neurons = np.arange(0, model.n_ff, 5)
    bias = np.full(len(neurons), size, np.float32)
    layers = tuple(
        LayerMap(layer, neurons.astype(np.int32), None, bias) for layer in range(model.n_layer)
    )
    return Cartridge(Metadata("shift"), model.fingerprint, layers)


class TestComplete:
    def test_texts_are_those_of_their_tokens(self, tiny_model: Model) -> None:
        tokens = [tiny_model.tokenize(prompt) for prompt in PROMPTS]
        expected = [tiny_model.detokenize(out) for out in greedy(tiny_model, tokens, 6)]
        assert complete(tiny_model, PROMPTS, n_tokens=6) == expected
        assert complete(tiny_model, tokens, n_tokens=6) == expected
        assert complete(tiny_model, []) == []

    def test_one_dose_and_several(self, tiny_model: Model) -> None:
        plain = complete(tiny_model, PROMPTS, n_tokens=8)
        dose = Dose(shift(tiny_model), 1.0)
        steered = complete(tiny_model, PROMPTS, n_tokens=8, steering=dose)
        assert steered != plain
        assert complete(tiny_model, PROMPTS, n_tokens=8, steering=(dose,)) == steered
        off = (Dose(shift(tiny_model), 0.0),)
        assert complete(tiny_model, PROMPTS, n_tokens=8, steering=off) == plain

    def test_draws_repeat_by_seed_and_equal_prompts_differ(self, tiny_model: Model) -> None:
        same = ["abc"] * 70  # more than one filling of the context
        first = complete(tiny_model, same, n_tokens=8, sampling=DRAWN)
        assert complete(tiny_model, same, n_tokens=8, sampling=DRAWN) == first
        assert len(set(first)) > 60
        assert complete(
            tiny_model, same[:2], n_tokens=8, sampling=SamplingParams(temperature=0)
        ) == (complete(tiny_model, same[:2], n_tokens=8))

    def test_a_seed_at_the_limit_goes_on_at_zero(self, tiny_model: Model) -> None:
        last = SamplingParams(temperature=1.5, seed=2**32 - 1)
        second = complete(tiny_model, ["abc"] * 2, n_tokens=8, sampling=last)[1]
        zero = SamplingParams(temperature=1.5, seed=0)
        assert second == complete(tiny_model, ["abc"], n_tokens=8, sampling=zero)[0]

    def test_refusals(self, tiny_model: Model) -> None:
        with pytest.raises(InputError, match="one prompt was given where a list"):
            complete(tiny_model, "abc")
        with pytest.raises(InputError, match="n_tokens has value 0"):
            complete(tiny_model, ["abc"], n_tokens=0)
        with pytest.raises(InputError, match="prompt 1 has no tokens"):
            complete(tiny_model, ["abc", []])
        with pytest.raises(InputError, match="token 999 is not in the vocabulary"):
            complete(tiny_model, [[1, 999]])
        with pytest.raises(AlphaError, match="11"):
            complete(tiny_model, ["abc"], steering=Dose(shift(tiny_model), 11.0))
        other = Cartridge(Metadata("x"), Fingerprint("llama", 9, 96, 64, "00"), ())
        with pytest.raises(CartridgeMismatchError, match="'x'"):
            complete(tiny_model, ["abc"], steering=Dose(other, 1.0))


class TestActivations:
    def test_one_array_a_text_in_the_shape_that_is_promised(self, tiny_model: Model) -> None:
        found = activations(tiny_model, PROMPTS, layers=[2, 0])
        assert list(found) == [0, 2]
        tokens = [tiny_model.tokenize(prompt) for prompt in PROMPTS]
        rows = capture(tiny_model, tokens, layers=[0, 2])
        for layer, arrays in found.items():
            assert [a.shape for a in arrays] == [(len(t), tiny_model.n_ff) for t in tokens]
            np.testing.assert_array_equal(np.concatenate(arrays), rows[layer])
            assert arrays[0].dtype == np.float32

    def test_all_layers_without_a_choice(self, tiny_model: Model) -> None:
        assert list(activations(tiny_model, ["abc"])) == list(range(tiny_model.n_layer))

    @pytest.mark.parametrize(
        ("layers", "message"),
        [
            ([3], "layers has value 3; the model has layers 0 to 2"),
            ([-1], "value -1"),
            ([], "empty"),
        ],
    )
    def test_layers_that_are_not_there(
        self, tiny_model: Model, layers: list[int], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            activations(tiny_model, ["abc"], layers=layers)

    def test_texts_that_cannot_be_run(self, tiny_model: Model) -> None:
        with pytest.raises(InputError, match="one text was given"):
            activations(tiny_model, "abc")
        with pytest.raises(InputError, match="text 0 has no tokens"):
            activations(tiny_model, [[]])
        with pytest.raises(InputError, match="without tokens"):
            activations(tiny_model, [])


def test_a_text_that_was_not_steered_throughout_is_an_error(tiny_model: Model) -> None:
    dose = Dose(shift(tiny_model, 1e37), 10.0)
    with pytest.raises(OutOfRangeError, match="cartridge 'shift' met or made activations out of"):
        complete(tiny_model, PROMPTS, n_tokens=2, steering=dose)
    tokens = tiny_model.tokenize("a text")
    with pytest.raises(OutOfRangeError, match="shift"):
        log_likelihoods(tiny_model, [tokens], [tokens], steering=(dose,))
