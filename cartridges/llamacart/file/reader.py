"""Reads a cartridge file, trusting nothing in it.

The header is read field by field, each bounded by the file's length and a fixed limit,
and judged whole before tensor data is read, so that no size is taken from the file
before it is known to be right. The file is read, not mapped: another process that cuts
a mapped file short would end this one with SIGBUS.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.errors import CartridgeError, CartridgeFormatError, NotFoundError
from llamacart.file import format as fmt
from llamacart.file.condition import parse_when
from llamacart.file.cursor import Cursor, read_value
from llamacart.file.layout import Tensor, check_layout, place_tensors
from llamacart.file.storage import STORAGES, unpack
from llamacart.file.texts import parse_json, shown
from llamacart.file.validator import check_cartridge, check_fixed, check_keys, check_metadata
from llamacart.matrix import FactoredMatrix, QuantizedMatrix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)


def read_cartridge(path: Path | str, *, label: str | None = None) -> Cartridge:
    """Read and check a cartridge.

    Its arrays are read-only and hold no reference to the file, which may be replaced
    while the cartridge is in use.

    Args:
        path: The file.
        label: What errors call it instead of `path`, for readers who are not to know that.

    Raises:
        NotFoundError: There is no file at `path`.
        CartridgeFormatError: The file breaks a rule of FORMAT.md.
        CartridgeError: `path` cannot be read, or is not a regular file.
    """
    label, path = str(path) if label is None else label, Path(path)
    try:
        _check_regular(path, label)
        with path.open("rb") as file:
            return _read(file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise NotFoundError(f"no cartridge file at {label}") from None
    except OSError as error:
        raise CartridgeError(f"cannot read {label}: {error.strerror or error}") from error
    except CartridgeFormatError as error:
        message = error.message.removesuffix(f" [{error.rule}]")
        raise CartridgeFormatError(error.rule, f"{label}: {message}") from None


def _check_regular(path: Path, label: str) -> None:
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except ValueError as error:  # a path that holds a null byte
        raise CartridgeError(f"cannot read {label!r}: {error}") from None
    # Reading a pipe or device might block, or never end.
    if not regular:
        raise CartridgeError(f"{label} is not a regular file")


@dataclass(frozen=True)
class _Header:
    metadata: Metadata
    fingerprint: Fingerprint
    site: str
    content_hash: str
    when: tuple[str, ...]
    tensors: Mapping[str, Tensor]


def _read(file: BinaryIO, size: int) -> Cartridge:
    cursor = Cursor(file, size)
    header = _read_header(cursor)
    numbers = sorted({int(name.split(".")[1]) for name in header.tensors})
    cartridge = Cartridge(
        metadata=header.metadata,
        fingerprint=header.fingerprint,
        layers=tuple(_read_layer(cursor, header.tensors, number) for number in numbers),
        site=header.site,
        when=header.when,
    )
    check_cartridge(cartridge)
    if cartridge.content_hash != header.content_hash:
        raise CartridgeFormatError(
            "content-hash",
            f"key {fmt.CONTENT_HASH!r} is {shown(header.content_hash)}, "
            f"but the content has {cartridge.content_hash!r}",
        )
    return cartridge


def _read_header(cursor: Cursor) -> _Header:
    if cursor.size > fmt.MAX_FILE_BYTES:
        raise CartridgeFormatError(
            "file-size",
            f"the file has {cursor.size} bytes; at most {fmt.MAX_FILE_BYTES} are allowed",
        )
    magic = cursor.take(4, "the magic number")
    if magic != fmt.MAGIC:
        raise CartridgeFormatError("magic", f"the file starts with {magic!r}, not {fmt.MAGIC!r}")
    version = cursor.uint(4, "the GGUF version")
    if version != fmt.GGUF_VERSION:
        raise CartridgeFormatError(
            "version", f"the GGUF version is {version}, not {fmt.GGUF_VERSION} (little-endian)"
        )
    n_tensors = cursor.count("count", "the number of tensors", fmt.MAX_TENSORS)
    n_keys = cursor.count("count", "the number of keys", fmt.MAX_KEYS)
    values = _read_keys(cursor, n_keys)
    tensors = _read_tensor_infos(cursor, n_tensors)

    metadata, fingerprint = _metadata(values), _fingerprint(values)
    check_metadata(metadata, fingerprint, values[fmt.SITE_KEY])
    when = parse_when(values[fmt.WHEN]) if fmt.WHEN in values else ()
    check_layout(tensors, fingerprint, values[fmt.VERSION])
    tensors = place_tensors(tensors, cursor.position, cursor.size)
    cursor.pad("the header")
    for name, tensor in tensors.items():
        cursor.jump(tensor.start + tensor.n_bytes)
        cursor.pad(f"tensor {name!r}")
    site, content_hash = values[fmt.SITE_KEY], values[fmt.CONTENT_HASH]
    return _Header(metadata, fingerprint, site, content_hash, when, tensors)


def _read_keys(cursor: Cursor, n_keys: int) -> dict[str, Any]:
    """The values of all keys; those that are not text, uint32 or float32 are None."""
    kinds: dict[str, int] = {}
    values: dict[str, Any] = {}
    for index in range(n_keys):
        key = cursor.text(f"the name of key {index}", fmt.MAX_KEY_BYTES)
        if key in kinds:
            raise CartridgeFormatError("duplicate-key", f"key {key!r} occurs twice")
        kinds[key] = cursor.uint(4, f"the type of key {key!r}")
        values[key] = read_value(cursor, kinds[key], f"the value of key {key!r}")
        check_fixed(key, kinds[key], values[key])
    check_keys(kinds, values.get(fmt.VERSION))
    return values


def _read_tensor_infos(cursor: Cursor, n_tensors: int) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for index in range(n_tensors):
        name = cursor.text(f"the name of tensor {index}", fmt.MAX_TENSOR_NAME_BYTES)
        if name in tensors:
            raise CartridgeFormatError("duplicate-tensor", f"tensor {name!r} occurs twice")
        n_dims = cursor.uint(4, f"the number of dimensions of tensor {name!r}")
        if not 1 <= n_dims <= fmt.MAX_DIMS:
            raise CartridgeFormatError("tensor-shape", f"tensor {name!r} has {n_dims} dimensions")
        # GGUF states the fastest axis first.
        shape = tuple(cursor.uint(8, f"the shape of tensor {name!r}") for _ in range(n_dims))[::-1]
        number = cursor.uint(4, f"the type of tensor {name!r}")
        dtype = fmt.TENSOR_TYPES.get(number, f"GGML type {number}")
        tensors[name] = Tensor(dtype, shape, cursor.uint(8, f"the offset of tensor {name!r}"))
    return tensors


def _fingerprint(values: Mapping[str, Any]) -> Fingerprint:
    general, base = values[fmt.ARCHITECTURE], values[fmt.BASE_ARCHITECTURE]
    if general != base:
        raise CartridgeFormatError(
            "architecture",
            f"key {fmt.ARCHITECTURE!r} is {shown(general)}, "
            f"but {fmt.BASE_ARCHITECTURE!r} is {shown(base)}",
        )
    return Fingerprint(
        architecture=base,
        n_layer=values[fmt.BASE_LAYERS],
        n_ff=values[fmt.BASE_WIDTH],
        n_embd=values[fmt.BASE_EMBEDDING],
        weights_hash=values[fmt.BASE_HASH],
        name=values[fmt.BASE_NAME],
    )


def _metadata(values: Mapping[str, Any]) -> Metadata:
    return Metadata(
        name=values[fmt.NAME],
        description=values[fmt.DESCRIPTION],
        # The shortest decimal of the 32-bit float: 0.8, not 0.800000011920929.
        default_alpha=float(str(np.float32(values[fmt.DEFAULT_ALPHA]))),
        solver=values[fmt.SOLVER],
        settings=parse_json(fmt.SETTINGS, values[fmt.SETTINGS]),
        dataset_hash=values[fmt.DATASET_HASH],
        diagnostics=parse_json(fmt.DIAGNOSTICS, values[fmt.DIAGNOSTICS]),
        created=values[fmt.CREATED],
        tool_version=values[fmt.TOOL_VERSION],
    )


def _read_layer(cursor: Cursor, tensors: Mapping[str, Tensor], number: int) -> LayerMap:
    def array(part: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        name = f"blk.{number}.{part}"
        cursor.jump(tensors[name].start)
        return np.frombuffer(cursor.take(tensors[name].n_bytes, f"tensor {name!r}"), dtype)

    def matrix(part: str) -> QuantizedMatrix:
        tensor = tensors[f"blk.{number}.{part}"]
        storage = STORAGES[tensor.dtype.lower()]
        found = unpack(array(part, storage.block), storage, (tensor.shape[0], tensor.shape[1]))
        return QuantizedMatrix(
            values=_owned(found.values, np.int8), scales=_owned(found.scales, np.float16)
        )

    delta: QuantizedMatrix | FactoredMatrix | None = None
    if f"blk.{number}.delta" in tensors:
        delta = matrix("delta")
    elif f"blk.{number}.left" in tensors:
        left = array("left", np.dtype("<f2")).reshape(tensors[f"blk.{number}.left"].shape)
        delta = FactoredMatrix(left=_owned(left, np.float16), right=matrix("right"))
    return LayerMap(
        layer=number,
        neurons=_owned(array("neurons", np.dtype("<i4")), np.int32),
        delta=delta,
        bias=_owned(array("bias", np.dtype("<f4")), np.float32),
    )


def _owned(array: NDArray[Any], dtype: type[_Scalar]) -> NDArray[_Scalar]:
    """A contiguous, read-only copy in the byte order of this machine."""
    copy = array.astype(dtype, order="C")
    copy.setflags(write=False)
    return copy
