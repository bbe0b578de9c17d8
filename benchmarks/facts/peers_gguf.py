"""A model's GGUF with some of its matrices in 32 bits: what a peer has made of it."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

import gguf
import numpy as np
from gguf.quants import dequantize

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]


def read_matrices(path: Path, names: Iterable[str]) -> dict[str, Matrix]:
    """Tensors of a file, dequantised, by name.

    Raises:
        KeyError: The file has no tensor of a name.
    """
    tensors = {tensor.name: tensor for tensor in _read(path).tensors}
    return {name: dequantize(tensors[name].data, tensors[name].tensor_type) for name in names}


def write_edited(source: Path, changed: Mapping[str, Matrix], target: Path) -> None:
    """Copy a GGUF with other values in some tensors; all else is copied byte by byte.

    Args:
        source: The model's file.
        changed: New values by name of tensor, in its own shape.
        target: The file to write.

    Raises:
        ValueError: A name or a shape is not the model's.
    """
    reader = _read(source)
    tensors = reader.tensors
    unknown = set(changed) - {tensor.name for tensor in tensors}
    if unknown:
        raise ValueError(f"{source.name} has no tensor {min(unknown)!r}")
    infos, blobs, offset = [], [], 0
    for tensor in tensors:
        data, kind = tensor.data, tensor.tensor_type
        if tensor.name in changed:
            data, kind = changed[tensor.name], gguf.GGMLQuantizationType.F32
            if data.shape[::-1] != tuple(tensor.shape):
                raise ValueError(f"{tensor.name} has another shape than {data.shape}")
        blob = np.ascontiguousarray(data, np.float32 if tensor.name in changed else None).tobytes()
        blob += bytes(-len(blob) % reader.alignment)
        name = tensor.name.encode()
        sides = [int(side) for side in tensor.shape]
        infos.append(
            struct.pack("<Q", len(name))
            + name
            + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, int(kind), offset)
        )
        blobs.append(blob)
        offset += len(blob)
    # Tensors are told of one by one behind the header and the metadata, which stay as they are.
    head = bytes(reader.data[: tensors[0].field.offset]) + b"".join(infos)
    with target.open("wb") as file:
        file.write(head + bytes(-len(head) % reader.alignment))
        file.writelines(blobs)


@lru_cache(maxsize=1)
def _read(path: Path) -> gguf.GGUFReader:
    """A model's file; its vocabulary takes seconds to read."""
    return gguf.GGUFReader(path)
