"""llama.cpp's own OpenMP threads, lent to compiled code while llama.cpp waits for it.

During the eval callback the worker threads of llama.cpp's CPU backend spin at their barrier. A
parallel region started from the same thread reuses exactly these, at the cost of a microsecond,
where threads of our own would fight them for the processors.
"""

from __future__ import annotations

import ctypes
from functools import cache

from llvmlite import binding as llvm

from llamacart.llama import ggml

SYMBOLS = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")


@cache
def expose_to_numba() -> bool:
    """Make the OpenMP functions resolvable by name from compiled code.

    Returns:
        Whether llama.cpp's CPU backend runs on OpenMP. Where it does not, the names resolve to
        nothing that may be called.
    """
    addresses: dict[str, int] = {}
    try:
        for name in SYMBOLS:  # found among the library's own dependencies
            function = getattr(ggml.library(), name)
            addresses[name] = ctypes.cast(function, ctypes.c_void_p).value or 0
    except AttributeError:
        addresses = {}
    for name in SYMBOLS:
        llvm.add_symbol(name, addresses.get(name, _NOTHING))
    return bool(addresses)


_nothing = ctypes.CFUNCTYPE(None)(lambda: None)
_NOTHING = ctypes.cast(_nothing, ctypes.c_void_p).value or 0
