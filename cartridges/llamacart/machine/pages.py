"""Memory that is given back to the system while its addresses stay taken.

What a buffer held is lost, and takes memory again where it is written next. Only Linux does that
for memory that was not asked for in a special way.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import cache

POSSIBLE = sys.platform == "linux"
"""Whether this system gives memory back."""


def give_back(region: range) -> int:
    """Give back the whole pages of a region.

    Args:
        region: Addresses of bytes that nobody reads before they are written.

    Returns:
        Bytes that were given back.
    """
    page = mmap.PAGESIZE
    first = -(-region.start // page) * page
    length = region.stop // page * page - first
    if not POSSIBLE or length <= 0:
        return 0
    if _madvise()(first, length, mmap.MADV_DONTNEED) != 0:
        return 0
    # Else each of its pages would come back by itself, which takes longer than to write them.
    _madvise()(first, length, mmap.MADV_HUGEPAGE)
    return length


def meet(one: range, other: range) -> bool:
    """Whether two regions have an address in common."""
    return max(one.start, other.start) < min(one.stop, other.stop)


@cache
def _madvise() -> ctypes._NamedFuncPointer:
    function = ctypes.CDLL(None).madvise
    function.restype = ctypes.c_int
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
