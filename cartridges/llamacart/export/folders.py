"""Adapters as folders of a JSON and a safetensors file: PEFT's (vLLM reads it too) and MLX's."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from llamacart.disk.whole import whole_file, write_whole
from llamacart.errors import InputError
from llamacart.export.gguf_files import told

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from llamacart.export.adapter import Adapter

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for `--max-lora-rank`."""

LAYERS_AT = "model.layers"
"""Path of the list of layers in the model's tree of modules."""

FOLDER_TYPES: dict[str, np.dtype[np.floating[Any]]] = {
    "f16": np.dtype("<f2"),
    "f32": np.dtype("<f4"),
}

_CODES = {np.dtype("<f2"): "F16", np.dtype("<f4"): "F32"}


def vllm_rank(rank: int) -> int:
    """The least of vLLM's ranks that holds `rank`; its largest where none does."""
    return next((own for own in VLLM_RANKS if own >= rank), VLLM_RANKS[-1])


def write_peft(
    adapter: Adapter, folder: Path, *, kind: str = "f16", layers_at: str = LAYERS_AT
) -> int:
    """Write `adapter_config.json` and `adapter_model.safetensors`; return the bytes of both.

    Args:
        adapter: Of one rank in all layers.
        folder: Is made where it is missing.
        kind: A key of `FOLDER_TYPES`.
        layers_at: Path of the list of layers, e.g. `language_model.model.layers`.

    Raises:
        InputError: A value does not fit the type.
        OSError: A file cannot be written.
    """
    tensors = {}
    for layer in adapter.layers:
        path = f"base_model.model.{layers_at}.{layer.layer}.mlp.down_proj"
        tensors[f"{path}.lora_A.weight"] = layer.a
        tensors[f"{path}.lora_B.weight"] = layer.b
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.fingerprint.name,
        "r": adapter.rank,
        "lora_alpha": adapter.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "target_modules": ["down_proj"],
        "layers_to_transform": [layer.layer for layer in adapter.layers],
        "layers_pattern": "layers",
    }
    return _write_folder(
        folder, "adapter_model.safetensors", tensors, config, FOLDER_TYPES[kind], told(adapter)
    )


def write_mlx(
    adapter: Adapter, folder: Path, *, kind: str = "f16", layers_at: str = LAYERS_AT
) -> int:
    """Write `adapter_config.json` and `adapters.safetensors` as mlx-lm reads them.

    Its matrices are the transposes: `lora_a` [D, R], `lora_b` [R, E].

    Args:
        adapter: Of one rank in all layers.
        folder: Is made where it is missing.
        kind: A key of `FOLDER_TYPES`.
        layers_at: Path of the list of layers.

    Raises:
        InputError: A value does not fit the type.
        OSError: A file cannot be written.
    """
    tensors = {}
    for layer in adapter.layers:
        path = f"{layers_at}.{layer.layer}.mlp.down_proj"
        tensors[f"{path}.lora_a"] = layer.a.T
        tensors[f"{path}.lora_b"] = layer.b.T
    config = {
        "fine_tune_type": "lora",
        "num_layers": adapter.fingerprint.n_layer,
        "lora_parameters": {
            "rank": adapter.rank,
            "scale": 1.0,
            "dropout": 0.0,
            "keys": ["mlp.down_proj"],
        },
    }
    return _write_folder(
        folder, "adapters.safetensors", tensors, config, FOLDER_TYPES[kind], told(adapter)
    )


def write_safetensors(
    tensors: Mapping[str, NDArray[np.generic]], path: Path, metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file: 8 bytes of length, a JSON header, and the values.

    Source: https://github.com/huggingface/safetensors, "Format".

    Args:
        tensors: Of 16 or 32 bit floats.
        path: The file.
        metadata: Texts for its header.

    Raises:
        OSError: The file cannot be written.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, values in tensors.items():
        end = offset + values.nbytes
        header[name] = {
            "dtype": _CODES[values.dtype],
            "shape": list(values.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # the values begin at a multiple of 8
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little"))
        file.write(raw)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values).data)
        file.flush()
        os.fsync(file.fileno())


def _write_folder(
    folder: Path,
    name: str,
    tensors: Mapping[str, NDArray[np.float32]],
    config: Mapping[str, object],
    dtype: np.dtype[np.floating[Any]],
    origin: str,
) -> int:
    with np.errstate(over="ignore"):
        stored = {key: values.astype(dtype) for key, values in tensors.items()}
    for key, values in stored.items():
        if not np.isfinite(values).all():
            raise InputError(
                f"tensor {key!r} does not fit {dtype.itemsize * 8} bits; --type f32 holds it",
                param="type",
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(stored, folder / name, {"format": "pt", "llamacart": origin})
    write_whole(folder / "adapter_config.json", json.dumps(config, indent=2) + "\n")
    return sum((folder / file).stat().st_size for file in (name, "adapter_config.json"))
