"""llama.cpp's threads, kept from one graph computation to the next.

Without a pool of its own a context makes one for each computation, and steering cuts a step into
one computation a layer. Where llama.cpp was built without OpenMP that means starting threads anew.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from llamacart.llama import ggml
from llamacart.llama.closing import Closing

_MAX_THREADS = 512


class _Params(ctypes.Structure):
    """`ggml_threadpool_params`; its size matters, since `ggml_threadpool_params_init` fills it."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * _MAX_THREADS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


@cache
def _functions() -> ctypes.CDLL:
    lib = ggml.library()
    address = ctypes.c_void_p
    for name, result, arguments in (
        ("ggml_threadpool_params_init", None, [ctypes.POINTER(_Params), ctypes.c_int]),
        ("ggml_threadpool_new", address, [ctypes.POINTER(_Params)]),
        ("ggml_threadpool_free", None, [address]),
        ("llama_attach_threadpool", None, [address, address, address]),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


class ThreadPool(Closing):
    """Threads for a context.

    Args:
        n_threads: At least 1.
    """

    def __init__(self, n_threads: int) -> None:
        params = _Params()
        lib = _functions()
        lib.ggml_threadpool_params_init(ctypes.byref(params), min(n_threads, _MAX_THREADS))
        self._handle = lib.ggml_threadpool_new(ctypes.byref(params))

    def attach(self, context: Any) -> None:
        """Let a `llama_context *` compute on these; it must be freed before `close`."""
        _functions().llama_attach_threadpool(context, self._handle, self._handle)

    def close(self) -> None:
        """End the threads; closing again does nothing."""
        if self._handle:
            _functions().ggml_threadpool_free(self._handle)
            self._handle = None
