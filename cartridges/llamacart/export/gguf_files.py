"""Adapters as GGUF files, for llama.cpp: `--lora` and `--control-vector`."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import gguf
import numpy as np

from llamacart.disk.whole import whole_file
from llamacart.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from llamacart.export.adapter import Adapter

LORA_TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.F16),
    # Rows of B are as long as the rank, which need not be a multiple of Q8_0's block.
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F16),
}
"""How A and B are stored."""

_HINT_KEYS = ("controlvector.model_hint", "controlvector.layer_count")


def write_lora(adapter: Adapter, path: Path, kind: str = "f16") -> int:
    """Write a LoRA for llama.cpp, replacing any file at `path`, and return its size in bytes.

    Where all ranks are equal, `adapter.lora.alpha` is that rank, as other tools write it. Where
    they differ it is 0, which llama.cpp takes for: the request's scale is the scale, whatever the
    rank (src/llama-adapter.h, get_scale). Either way a scale of 1 is the adapter's α.

    Args:
        adapter: It.
        path: The file.
        kind: A key of `LORA_TYPES`.

    Raises:
        InputError: A value does not fit the type.
        OSError: The file cannot be written.
    """
    type_a, type_b = LORA_TYPES[kind]
    ranks = {layer.rank for layer in adapter.layers}
    with whole_file(path) as temporary:
        writer = gguf.GGUFWriter(temporary, adapter.fingerprint.architecture)
        with closing(writer):
            writer.add_type(gguf.GGUFType.ADAPTER)
            writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
            writer.add_float32(
                gguf.Keys.Adapter.LORA_ALPHA, float(ranks.pop()) if len(ranks) == 1 else 0.0
            )
            writer.add_name(adapter.name)
            writer.add_description(told(adapter))
            for layer in adapter.layers:
                base = f"blk.{layer.layer}.ffn_down.weight"
                writer.add_tensor(f"{base}.lora_a", _stored(layer.a, type_a), raw_dtype=type_a)
                writer.add_tensor(f"{base}.lora_b", _stored(layer.b, type_b), raw_dtype=type_b)
            _write(writer)
    return path.stat().st_size


def write_control_vector(directions: NDArray[np.float32], architecture: str, path: Path) -> int:
    """Write a control vector for llama.cpp and return the file's size in bytes.

    Args:
        directions: float32 [L, E]; layers of zeros are left out, and layer 0 must be one of them.
        architecture: Of the model.
        path: The file.
    """
    with whole_file(path) as temporary:
        writer = gguf.GGUFWriter(temporary, "controlvector")
        with closing(writer):
            writer.add_string(_HINT_KEYS[0], architecture)
            writer.add_uint32(_HINT_KEYS[1], len(directions))
            for layer, direction in enumerate(directions):
                if direction.any():
                    writer.add_tensor(f"direction.{layer}", np.asarray(direction, np.float32))
            _write(writer)
    return path.stat().st_size


def told(adapter: Adapter) -> str:
    """Where an adapter comes from, in a line."""
    return (
        f"cartridge {adapter.name} ({adapter.content_hash[:12]}) at alpha {adapter.alpha:g}, by "
        "llamacart export"
    )


def _write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.flush()
    os.fsync(writer.fout[0].fileno())


def _stored(values: NDArray[np.float32], kind: gguf.GGMLQuantizationType) -> NDArray[np.generic]:
    if kind != gguf.GGMLQuantizationType.F32 and np.abs(values).max(initial=0) > 65504:
        raise InputError(
            f"a value of {np.abs(values).max():g} does not fit 16 bits; --type f32 holds it",
            param="type",
        )
    return np.asarray(gguf.quantize(np.ascontiguousarray(values, np.float32), kind))
