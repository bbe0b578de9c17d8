"""Writes a cartridge file whole or not at all."""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

from llamacart.disk.whole import whole_file
from llamacart.errors import CartridgeError, CartridgeFormatError
from llamacart.file import format as fmt
from llamacart.file.storage import narrowest, pack
from llamacart.file.validator import check_cartridge
from llamacart.matrix import FactoredMatrix, QuantizedMatrix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from llamacart.cartridge import Cartridge


def write_cartridge(cartridge: Cartridge, path: Path | str) -> int:
    """Write a cartridge, replacing any file at `path`, and return its size in bytes.

    The file is written under a temporary name in the same folder and renamed once it is
    on disk: a reader sees the old file or the new one, and a failure leaves the old one.

    Raises:
        CartridgeFormatError: The cartridge breaks a rule of FORMAT.md; nothing is written.
        CartridgeError: The file cannot be written.
    """
    path, structured = Path(path), check_cartridge(cartridge)
    try:
        with whole_file(path) as temporary:
            size = _write(cartridge, structured, temporary)
            if size > fmt.MAX_FILE_BYTES:
                raise CartridgeFormatError(
                    "file-size",
                    f"the file has {size} bytes; at most {fmt.MAX_FILE_BYTES} are allowed",
                )
    except OSError as error:
        raise CartridgeError(f"cannot write {path}: {error.strerror or error}") from error
    return size


def _write(cartridge: Cartridge, structured: Mapping[str, str], path: Path) -> int:
    writer = GGUFWriter(path, cartridge.fingerprint.architecture)
    values = _values(cartridge) | dict(structured)
    for key, kind in fmt.REQUIRED_KEYS.items():
        if key != fmt.ARCHITECTURE:  # GGUFWriter has put it first
            # Not add_string, which leaves out empty strings.
            writer.add_key_value(key, values[key], GGUFValueType(kind))
    if cartridge.when:
        text = json.dumps({"said": cartridge.when}, ensure_ascii=False, separators=(",", ":"))
        writer.add_key_value(fmt.WHEN, text, GGUFValueType(fmt.STRING))
    for m in cartridge.layers:
        writer.add_tensor(f"blk.{m.layer}.neurons", _plain(m.neurons))
        if isinstance(m.delta, FactoredMatrix):
            writer.add_tensor(f"blk.{m.layer}.left", _plain(m.delta.left))
            _add_blocks(writer, f"blk.{m.layer}.right", m.delta.right)
        elif m.delta is not None:
            _add_blocks(writer, f"blk.{m.layer}.delta", m.delta)
        writer.add_tensor(f"blk.{m.layer}.bias", _plain(m.bias))
    with closing(writer):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.flush()
        os.fsync(writer.fout[0].fileno())
    return path.stat().st_size


def _add_blocks(writer: GGUFWriter, name: str, matrix: QuantizedMatrix) -> None:
    storage = narrowest(matrix)
    writer.add_tensor(
        name,
        _plain(pack(matrix, storage)),
        raw_dtype=GGMLQuantizationType(storage.ggml_number),
    )


class _Plain(np.ndarray[Any, Any]):
    """An array that is written as any bytes are.

    NumPy's own `tofile` says of a full disk how many bytes are missing, but not why.
    """

    def tofile(self, fid: Any, sep: str = "", format: str = "") -> None:  # noqa: A002, ARG002
        fid.write(self.data)


def _plain(array: NDArray[Any]) -> _Plain:
    return np.ascontiguousarray(array).view(_Plain)


def _values(cartridge: Cartridge) -> dict[str, Any]:
    metadata, base = cartridge.metadata, cartridge.fingerprint
    return {
        fmt.TYPE: fmt.FIXED_VALUES[fmt.TYPE][2][0],
        fmt.ADAPTER_TYPE: fmt.FIXED_VALUES[fmt.ADAPTER_TYPE][2][0],
        fmt.QUANTIZATION: fmt.QUANTIZATION_VERSION,
        fmt.VERSION: _version(cartridge),
        fmt.NAME: metadata.name,
        fmt.DESCRIPTION: metadata.description,
        fmt.SITE_KEY: cartridge.site,
        fmt.BASE_ARCHITECTURE: base.architecture,
        fmt.BASE_LAYERS: base.n_layer,
        fmt.BASE_WIDTH: base.n_ff,
        fmt.BASE_EMBEDDING: base.n_embd,
        fmt.BASE_HASH: base.weights_hash,
        fmt.BASE_NAME: base.name,
        fmt.DEFAULT_ALPHA: float(metadata.default_alpha),
        fmt.SOLVER: metadata.solver,
        fmt.DATASET_HASH: metadata.dataset_hash,
        fmt.CREATED: metadata.created,
        fmt.TOOL_VERSION: metadata.tool_version,
        # Of a copy: the original may have computed its hash before an array was changed.
        fmt.CONTENT_HASH: replace(cartridge).content_hash,
    }


def _version(cartridge: Cartridge) -> int:
    """The least format version that can say what the cartridge holds."""
    deltas = [m.delta for m in cartridge.layers]
    if any(isinstance(delta, FactoredMatrix) for delta in deltas):
        return fmt.FORMAT_VERSIONS[3]
    if cartridge.when:
        return fmt.FORMAT_VERSIONS[2]
    whole = [delta for delta in deltas if isinstance(delta, QuantizedMatrix)]
    narrow = any(narrowest(delta).ggml_name in fmt.VERSION_2_TYPES for delta in whole)
    return fmt.FORMAT_VERSIONS[1 if narrow else 0]
