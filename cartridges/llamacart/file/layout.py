"""The rules of FORMAT.md about which tensors there are, and where their data lie."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llamacart.errors import CartridgeFormatError
from llamacart.file import format as fmt
from llamacart.file.texts import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamacart.cartridge import Fingerprint

_TENSOR = re.compile(r"blk\.(0|[1-9][0-9]{0,3})\.(neurons|delta|left|right|bias)")


@dataclass(frozen=True)
class Tensor:
    """What a tensor is, apart from its data.

    Attributes:
        dtype: GGML's name of the type, e.g. `Q8_0`.
        shape: Rows first, as numpy counts: [K] or [K, D].
        start: Position of the data, in bytes: in a tensor info from the end of the
            header, after `place_tensors` from the start of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of data, for a type and shape that `check_layout` has passed."""
        n_elements, n_bytes = fmt.TYPE_BYTES[self.dtype]
        return math.prod(self.shape) // n_elements * n_bytes


def aligned(position: int) -> int:
    """The first position at or after `position` where tensor data may start."""
    return -(-position // fmt.ALIGNMENT) * fmt.ALIGNMENT


def check_layout(
    tensors: Mapping[str, Tensor],
    fingerprint: Fingerprint,
    version: int = fmt.FORMAT_VERSIONS[-1],
) -> None:
    """Check names, types and shapes of all tensors against each other and the base.

    Args:
        tensors: By name; `start` is not looked at.
        fingerprint: One that `check_metadata` has passed.
        version: Format version of the file.
    """
    layers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise CartridgeFormatError("tensor-name", f"tensor {shown(name)} is not of the format")
        if version < 4 and match[2] in fmt.FACTORS:
            raise CartridgeFormatError(
                "tensor-name", f"tensor {name!r} is not of format version {version}"
            )
        layers.setdefault(int(match[1]), {})[match[2]] = tensor
    if not layers:
        raise CartridgeFormatError("layers", "there is no layer; at least one is needed")
    for layer, parts in layers.items():
        if layer >= fingerprint.n_layer:
            raise CartridgeFormatError(
                "layer-index", f"layer {layer} is beyond the base's {fingerprint.n_layer} layers"
            )
        _check_parts(layer, parts, fingerprint.n_ff)
    for name, tensor in tensors.items():
        if version < 2 and tensor.dtype in fmt.VERSION_2_TYPES:
            raise CartridgeFormatError(
                "tensor-dtype",
                f"tensor {name!r} has type {tensor.dtype}, which format version {version} lacks",
            )


def _check_parts(layer: int, parts: Mapping[str, Tensor], width: int) -> None:
    factors = fmt.FACTORS if any(part in parts for part in fmt.FACTORS) else ()
    for part in ("neurons", "bias", *factors):
        if part not in parts:
            raise CartridgeFormatError("layer-tensors", f"tensor 'blk.{layer}.{part}' is missing")
    if factors and "delta" in parts:
        raise CartridgeFormatError(
            "layer-tensors", f"layer {layer} has both 'delta' and its factors; one is needed"
        )
    n_active = math.prod(parts["neurons"].shape)
    if not 1 <= n_active <= width:
        raise CartridgeFormatError(
            "tensor-shape", f"layer {layer} has {n_active} neurons; 1 to {width} are possible"
        )
    rank = _rank(layer, parts, n_active)
    shapes = {"delta": (n_active, width), "left": (n_active, rank), "right": (rank, width)}
    for part, tensor in parts.items():
        name = f"blk.{layer}.{part}"
        dtypes = fmt.PART_TYPES[part]
        if tensor.dtype not in dtypes:
            raise CartridgeFormatError(
                "tensor-dtype",
                f"tensor {name!r} has type {tensor.dtype}, not {' or '.join(dtypes)}",
            )
        shape = shapes.get(part, (n_active,))
        if tensor.shape != shape:
            raise CartridgeFormatError(
                "tensor-shape", f"tensor {name!r} has shape {tensor.shape}, not {shape}"
            )


def _rank(layer: int, parts: Mapping[str, Tensor], n_active: int) -> int:
    """Columns of `left`, which `right` must have as rows; 0 where the layer has no factors."""
    if "left" not in parts:
        return 0
    shape = parts["left"].shape
    rank = shape[1] if len(shape) == 2 else 0
    if not 1 <= rank <= n_active:
        raise CartridgeFormatError(
            "tensor-shape",
            f"tensor 'blk.{layer}.left' has shape {shape}, not ({n_active}, rank) with a rank "
            f"from 1 to {n_active}",
        )
    return rank


def place_tensors(tensors: Mapping[str, Tensor], header_end: int, size: int) -> dict[str, Tensor]:
    """Positions in a file of `size` bytes, which the data must fill tensor after tensor.

    Args:
        tensors: In the order of the file; `check_layout` has passed them.
        header_end: Position of the first byte after the last tensor info.
        size: Length of the file.
    """
    base = position = aligned(header_end)
    placed = {}
    for name, tensor in tensors.items():
        if tensor.start != position - base:
            raise CartridgeFormatError(
                "tensor-offset", f"tensor {name!r} has offset {tensor.start}, not {position - base}"
            )
        placed[name] = replace(tensor, start=position)
        position = aligned(position + tensor.n_bytes)
        if position > size:
            raise CartridgeFormatError(
                "truncated",
                f"tensor {name!r} ends at byte {position}, but the file at byte {size}",
            )
    if position != size:
        raise CartridgeFormatError(
            "trailing-bytes", f"the data ends at byte {position}, but the file at byte {size}"
        )
    return placed
