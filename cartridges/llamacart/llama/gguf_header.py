"""The header of a GGUF file, read by ggml."""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from llamacart.file import format as fmt
from llamacart.llama import ggml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_UINT16 = 2


class TensorPlace(NamedTuple):
    """Where a tensor lies in a file.

    Attributes:
        name: Its name.
        kind: ggml's number of its type.
        offset: Bytes from the file's start.
        n_bytes: Its length.
        shape: Its four axes, the slowest first.
    """

    name: str
    kind: int
    offset: int
    n_bytes: int
    shape: tuple[int, ...]


class GgufHeader:
    """The header of a GGUF file."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[GgufHeader | None]:
        """None where ggml cannot read it."""
        lib = _functions()
        handle = lib.gguf_init_from_file(os.fsencode(path), _InitParams(True, None))
        try:
            yield cls(handle) if handle else None
        finally:
            if handle:
                lib.gguf_free(handle)

    @property
    def n_tensors(self) -> int:
        """Tensors of the file."""
        return int(_functions().gguf_get_n_tensors(self._handle))

    def tensors(self) -> Iterator[TensorPlace]:
        """Where each tensor lies in the file."""
        lib = _functions()
        start = int(lib.gguf_get_data_offset(self._handle))
        for i in range(self.n_tensors):
            yield TensorPlace(
                name=lib.gguf_get_tensor_name(self._handle, i).decode("utf-8", "replace"),
                kind=int(lib.gguf_get_tensor_type(self._handle, i)),
                offset=start + int(lib.gguf_get_tensor_offset(self._handle, i)),
                n_bytes=int(lib.gguf_get_tensor_size(self._handle, i)),
                shape=tuple(lib.gguf_get_tensor_ne(self._handle, i)[:4][::-1]),
            )

    def has(self, key: str) -> bool:
        """Whether there is a metadata value of that name."""
        return self._find(key, None) is not None

    def text(self, key: str) -> str | None:
        """A metadata value that is a text; None where there is none."""
        place = self._find(key, fmt.STRING)
        if place is None:
            return None
        value: bytes = _functions().gguf_get_val_str(self._handle, place)
        return value.decode("utf-8", "replace")

    def uint16(self, key: str) -> int | None:
        """A metadata value of 16 bits; None where there is none."""
        place = self._find(key, _UINT16)
        return None if place is None else int(_functions().gguf_get_val_u16(self._handle, place))

    def _find(self, key: str, kind: int | None) -> int | None:
        # ggml ends the process where a value is asked for as another type than it has.
        place = int(_functions().gguf_find_key(self._handle, key.encode()))
        if place < 0:
            return None
        of_kind = kind is None or _functions().gguf_get_kv_type(self._handle, place) == kind
        return place if of_kind else None


class _InitParams(ctypes.Structure):
    """`gguf_init_params`."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))


def _functions() -> ctypes.CDLL:
    lib = ggml.library()
    handle, place = ctypes.c_void_p, ctypes.c_int64
    for name, restype, argtypes in (
        ("gguf_init_from_file", handle, [ctypes.c_char_p, _InitParams]),
        ("gguf_free", None, [handle]),
        ("gguf_get_n_tensors", place, [handle]),
        ("gguf_get_data_offset", ctypes.c_size_t, [handle]),
        ("gguf_get_tensor_name", ctypes.c_char_p, [handle, place]),
        ("gguf_get_tensor_type", ctypes.c_int, [handle, place]),
        ("gguf_get_tensor_offset", ctypes.c_size_t, [handle, place]),
        ("gguf_get_tensor_size", ctypes.c_size_t, [handle, place]),
        ("gguf_get_tensor_ne", ctypes.POINTER(place), [handle, place]),
        ("gguf_find_key", place, [handle, ctypes.c_char_p]),
        ("gguf_get_kv_type", ctypes.c_int, [handle, place]),
        ("gguf_get_val_str", ctypes.c_char_p, [handle, place]),
        ("gguf_get_val_u16", ctypes.c_uint16, [handle, place]),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = restype, argtypes
    return lib
