"""SmolLM2 135M Instruct: the llama architecture, with a chat template in its file."""

from __future__ import annotations

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.llama.model import Model
from llamacart.passes.generate import greedy
from llamacart.values.steering import Dose
from llamacart_server.served import describe


@pytest.mark.model
def test_site_and_template_come_from_the_file(smol_model: Model) -> None:
    assert (smol_model.architecture, smol_model.site_node) == ("llama", "ffn_swiglu")
    assert (smol_model.n_layer, smol_model.n_ff) == (30, 1536)
    template = describe(smol_model, 512).template
    assert template.source == "gguf"
    text = template.render([{"role": "user", "content": "What is two plus two?"}])
    assert "<|im_start|>user\nWhat is two plus two?<|im_end|>\n" in text
    assert text.endswith("<|im_start|>assistant\n")


@pytest.mark.model
def test_it_answers_and_can_be_steered(smol_model: Model) -> None:
    template = describe(smol_model, 512).template
    text = template.render([{"role": "user", "content": "What is the capital of France?"}])
    prompt = [smol_model.tokenize(text, parse_special=True)]
    plain = greedy(smol_model, prompt, 16)
    assert len(plain[0]) == 16
    neurons = np.arange(200, dtype=np.int32)
    shifts = tuple(LayerMap(n, neurons, None, np.full(200, 0.5, np.float32)) for n in range(30))
    dose = Dose(Cartridge(Metadata("shift"), smol_model.fingerprint, shifts), 1.0)
    assert greedy(smol_model, prompt, 16, steering=(dose,)) != plain
