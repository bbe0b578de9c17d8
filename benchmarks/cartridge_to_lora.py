"""Write a llama.cpp LoRA of the same map as a cartridge, for comparing speed only.

With S the active neurons of a layer and D_S those columns of its down projection D, a cartridge
adds α D_S ((W − E_S) h + b) to what D h gives. Its linear part is a LoRA of rank |S| on ffn_down: A
= W − E_S [K, n_ff], B = D_S [n_embd, K], applied at scale α. The bias b has no place in a LoRA and
is LEFT OUT, so the texts are not the cartridge's; the work is.

Usage: cartridge_to_lora.py CARTRIDGE LORA [--model demo] [--type f16]
       llama-server -m model.gguf --lora LORA …

`adapter.lora.alpha` is 0, which llama.cpp reads as: the request's scale is the scale, whatever the
rank (src/llama-adapter.h, get_scale).
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

from llamacart.file.reader import read_cartridge
from llamacart.llama.resolve import resolve_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart.cartridge import Cartridge

TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.F16),
    # Rows of B are as long as the rank, which need not be a multiple of Q8_0's block.
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F16),
}


def down_columns(
    reader: gguf.GGUFReader, layer: int, neurons: NDArray[np.int32]
) -> NDArray[np.float32]:
    """D_S [n_embd, K]: columns `neurons` of a layer's down projection."""
    name = f"blk.{layer}.ffn_down.weight"
    tensor = next((t for t in reader.tensors if t.name == name), None)
    if tensor is None:
        raise SystemExit(f"the model has no tensor {name}")
    weight = dequantize(tensor.data, tensor.tensor_type)
    return np.ascontiguousarray(weight[:, neurons], np.float32)


def write_lora(cartridge: Cartridge, model: Path, target: Path, kind: str = "f16") -> int:
    """Write the LoRA and return its size in bytes.

    Args:
        cartridge: Made for `model`.
        model: The model's GGUF file.
        target: The file to write.
        kind: A key of `TYPES`: how A and B are stored.
    """
    reader = gguf.GGUFReader(model)
    writer = gguf.GGUFWriter(target, cartridge.fingerprint.architecture)
    type_a, type_b = TYPES[kind]
    with closing(writer):
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)
        writer.add_name(f"{cartridge.name} without its bias")
        for layer_map in cartridge.layers:
            if layer_map.delta is None:
                continue  # a mean shift has a bias only
            base = f"blk.{layer_map.layer}.ffn_down.weight"
            a = layer_map.dense_delta(cartridge.fingerprint.n_ff)
            b = down_columns(reader, layer_map.layer, layer_map.neurons)
            writer.add_tensor(f"{base}.lora_a", quantize(a, type_a), raw_dtype=type_a)
            writer.add_tensor(f"{base}.lora_b", quantize(b, type_b), raw_dtype=type_b)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return target.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cartridge", type=Path)
    parser.add_argument("lora", type=Path)
    parser.add_argument("--model", default="demo", help="GGUF path, 'demo' or hf:…")
    parser.add_argument(
        "--type", choices=TYPES, default="f16", help="q8_0: A in 8 bits as in the cartridge, B f16"
    )
    options = parser.parse_args()
    cartridge = read_cartridge(options.cartridge)
    size = write_lora(cartridge, resolve_model(options.model), options.lora, options.type)
    ranks = [len(m.neurons) for m in cartridge.layers if m.delta is not None]
    print(
        f"{options.lora}: {size / 1e6:.2f} MB as {options.type}, {len(ranks)} layers of rank "
        f"{min(ranks, default=0)} to {max(ranks, default=0)}, without the bias"
    )


if __name__ == "__main__":
    main()
