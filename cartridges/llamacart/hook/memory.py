"""Arrays that are read in the middle of llama.cpp's stream of weights.

By then the caches hold none of them, and each page that is touched costs a walk through the page
tables. So what is read together lies together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_LINE = 64


def side_by_side(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Copies of arrays that lie in one block of memory, each on cache lines of its own.

    Args:
        arrays: Any shapes and types.

    Returns:
        Writable copies; the block lives as long as one of them.
    """
    starts = np.cumsum([0, *(-(-a.nbytes // _LINE) * _LINE for a in arrays)]).tolist()
    block = np.empty(starts[-1] + _LINE, np.uint8)
    block = block[-block.ctypes.data % _LINE :]
    copies = []
    for array, start in zip(arrays, starts, strict=False):
        copy = block[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        copies.append(copy)
    return copies
