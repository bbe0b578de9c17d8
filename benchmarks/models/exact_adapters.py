"""Write cartridges without a bias, and LoRAs that are exactly them, for speed and agreement.

A LoRA has no place for a bias; the matrix alone is exact (docs/export.md). From one cartridge come
`--count` of the same size whose matrices differ by a factor, each beside its LoRA:
FOLDER/cartridges/NAME-I.gguf and FOLDER/loras/NAME-I.gguf, to act at α 1 and at scale 1.

Usage: exact_adapters.py CARTRIDGE FOLDER [--count 16] [--model demo]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llamacart.cartridge import Cartridge, LayerMap
from llamacart.export.adapter import Adapter, low_rank
from llamacart.export.gguf_files import write_lora
from llamacart.file.reader import read_cartridge
from llamacart.file.writer import write_cartridge
from llamacart.llama.model import Model
from llamacart.matrix import FactoredMatrix, QuantizedMatrix

if TYPE_CHECKING:
    from llamacart.llama.weights import Weights

WEAKEST = 0.6
"""Factor of the first; the last one has 1."""


def without_bias(cartridge: Cartridge, number: int, count: int) -> Cartridge:
    """The cartridge's matrices times a factor that depends on `number`, and no bias.

    Args:
        cartridge: It; layers that are all bias are left out.
        number: From 0.
        count: How many there will be.
    """
    factor = WEAKEST + (1 - WEAKEST) * (number + 1) / count
    layers = tuple(
        LayerMap(
            m.layer,
            m.neurons,
            _times(m.delta, factor),
            np.zeros_like(m.bias),
        )
        for m in cartridge.layers
        if m.delta is not None
    )
    metadata = replace(cartridge.metadata, name=f"{cartridge.name}-{number:02}", default_alpha=1.0)
    return replace(cartridge, metadata=metadata, layers=layers, when=())


def _times(delta: QuantizedMatrix | FactoredMatrix, factor: float) -> Any:
    if isinstance(delta, FactoredMatrix):
        return replace(delta, right=_times(delta.right, factor))
    return QuantizedMatrix(delta.values, (delta.scales * factor).astype(delta.scales.dtype))


def exact_adapter(cartridge: Cartridge, model: Weights) -> Adapter:
    """A cartridge without a bias as a LoRA that is exactly it.

    Args:
        cartridge: Its biases are zero.
        model: The model it was made for.
    """
    layers = []
    for m in cartridge.layers:
        down = model.tensors.read(f"blk.{m.layer}.ffn_down.weight", (model.n_embd, model.n_ff))
        layer = low_rank(m, np.ascontiguousarray(down[:, m.neurons]), 1.0, None)
        if layer is not None:
            layers.append(layer)
    return Adapter(
        cartridge.name, cartridge.content_hash, 1.0, cartridge.fingerprint, tuple(layers)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cartridge", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--model", default="demo", help="GGUF path, 'demo' or hf:…")
    options = parser.parse_args()
    first = read_cartridge(options.cartridge)
    for name in ("cartridges", "loras"):
        (options.folder / name).mkdir(parents=True, exist_ok=True)
    with Model(options.model) as model:
        for number in range(options.count):
            path = options.folder / "cartridges" / f"{first.name}-{number:02}.gguf"
            write_cartridge(without_bias(first, number, options.count), path)
            made = exact_adapter(read_cartridge(path), model)
            size = write_lora(made, options.folder / "loras" / path.name)
            print(f"{path.name}: {path.stat().st_size} bytes, LoRA {size} bytes")


if __name__ == "__main__":
    main()
