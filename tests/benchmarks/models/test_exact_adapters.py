"""A cartridge without a bias and its LoRA add the same to the down projection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from exact_adapters import exact_adapter, without_bias
from random_cartridge import random_cartridge

from llamacart.export.adapter import exact_step

if TYPE_CHECKING:
    from llamacart.llama.model import Model


def test_a_lora_without_a_bias_is_the_cartridge(tiny_model: Model) -> None:
    first = random_cartridge(tiny_model, 0, neurons=7, spread=0.1)
    made = [without_bias(first, number, 4) for number in range(4)]
    assert len({cartridge.content_hash for cartridge in made}) == 4
    assert [cartridge.name for cartridge in made] == [f"random-0{i}" for i in range(4)]
    rows = np.random.default_rng(1).normal(size=(5, tiny_model.n_ff)).astype(np.float32)
    for cartridge in made:
        for layer_map, layer in zip(
            cartridge.layers, exact_adapter(cartridge, tiny_model).layers, strict=True
        ):
            down = tiny_model.tensors.read(
                f"blk.{layer.layer}.ffn_down.weight", (tiny_model.n_embd, tiny_model.n_ff)
            )
            exact = exact_step(layer_map, down[:, layer_map.neurons], 1.0, rows)
            np.testing.assert_allclose(layer.step(rows), exact, rtol=1e-4, atol=1e-5)
            assert np.abs(exact).max() > 0.01
