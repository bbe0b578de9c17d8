"""The few functions of libggml that reach a tensor, as seen from Python and from numba.

Only exported accessors are used, never the layout of `ggml_tensor`, so a move of the
llama.cpp pin needs no change here unless a name disappears.
"""

from __future__ import annotations

import ctypes
from functools import cache

import llama_cpp
from llvmlite import binding as llvm

_P = ctypes.c_void_p
_PROTOTYPES: dict[str, tuple[object, list[object]]] = {
    "ggml_get_name": (_P, [_P]),
    "ggml_get_data": (_P, [_P]),
    "ggml_nelements": (ctypes.c_int64, [_P]),
    "ggml_nrows": (ctypes.c_int64, [_P]),
    "ggml_nbytes": (ctypes.c_size_t, [_P]),
    "ggml_is_contiguous": (ctypes.c_bool, [_P]),
    "ggml_backend_tensor_get": (None, [_P, _P, ctypes.c_size_t, ctypes.c_size_t]),
    "ggml_backend_tensor_set": (None, [_P, _P, ctypes.c_size_t, ctypes.c_size_t]),
}


@cache
def library() -> ctypes.CDLL:
    """Libllama and what it is linked with, argument types declared.

    Names are looked up through libllama: its wheel holds each library twice, under two file names,
    and loading one by its path would bring a second copy with a state of its own.
    """
    lib: ctypes.CDLL = llama_cpp.llama_cpp._lib
    for name, (restype, argtypes) in _PROTOTYPES.items():
        function = getattr(lib, name)
        function.restype = restype
        function.argtypes = argtypes
    return lib


@cache
def expose_to_numba() -> None:
    """Make the functions resolvable by name from compiled code (`numba.types.ExternalFunction`).

    Names instead of addresses keep numba's on-disk cache valid from one process to the next.
    """
    lib = library()
    for name in _PROTOTYPES:
        address = ctypes.cast(getattr(lib, name), _P).value
        llvm.add_symbol(name, address)


def tensor_name(tensor: int) -> str:
    """The node's name in the compute graph, e.g. `ffn_geglu-3`."""
    address = library().ggml_get_name(tensor)
    return ctypes.string_at(address).decode("utf-8", "replace")


def tensor_shape(tensor: int) -> tuple[int, int]:
    """(rows, width) of a tensor seen as a matrix; width is 0 where there are no rows."""
    lib = library()
    n_rows = int(lib.ggml_nrows(tensor))
    return n_rows, int(lib.ggml_nelements(tensor)) // n_rows if n_rows else 0
