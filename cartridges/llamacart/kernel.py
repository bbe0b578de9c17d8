"""The compiled eval callback: finds the site, follows the rows, steers them.

Everything it needs lies in one int64 control block whose address llama.cpp hands back as
`user_data`. It runs without the GIL, allocates nothing and never raises: trouble is left
as a code in the block for Python to raise after the decode.

    control block ──► groups (CSR: group → (slot, α) entries), group of each batch row
                 ──► table [slots, L, 5]: K and the addresses of neurons, values, scales, bias
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from llamacart import ggml

# Sums may be reordered, but NaN and infinity must come through.
_NO_NAN_ASSUMPTIONS = {"reassoc", "contract", "nsz", "arcp"}


class Field(IntEnum):
    """Slots of the control block."""

    ENTRIES = 0  # entries in this batch; 0 makes the callback decline every node
    WIDTH = 1
    LAST_LAYER = 2
    DEVICE = 3
    PREFIX = 4  # address of the site's name with its dash, e.g. b"ffn_geglu-"
    PREFIX_LENGTH = 5
    TABLE = 6
    NEEDED = 7  # address of uint8 [L]: layers where some entry acts
    ROW_GROUP = 8  # address of int32 [rows]
    N_ROWS = 9
    GROUP_START = 10  # address of int32 [groups + 1]
    ENTRY_SLOT = 11  # address of int32 [entries]
    ENTRY_ALPHA = 12  # address of float32 [entries]
    OUTPUT_ROW = 13  # address of int32 [outputs]
    N_OUTPUTS = 14
    ROW = 15  # first batch row of the current ubatch
    NEXT_ROW = 16
    OUTPUT = 17  # first output of the current ubatch
    NEXT_OUTPUT = 18
    SCRATCH = 19  # address of float32 [SCRATCH_LENGTH]: deltas of one row
    SCRATCH_LENGTH = 20
    STAGE = 21  # address of float32 [STAGE_LENGTH]: copy of a device tensor
    STAGE_LENGTH = 22
    ERROR = 23


class Trouble(IntEnum):
    """Codes in `Field.ERROR`."""

    NONE = 0
    WIDTH = 1  # the tensor is not [rows, D] float32
    ROWS = 2  # more rows than the batch had
    OUTPUTS = 3  # more last-layer rows than the batch had outputs
    SCRATCH = 4  # scratch or stage is too small


TABLE_FIELDS = 5  # K, neurons, values, scales, bias

_BLOCK = 32

_get_name = types.ExternalFunction("ggml_get_name", types.uintp(types.uintp))
_get_data = types.ExternalFunction("ggml_get_data", types.uintp(types.uintp))
_nelements = types.ExternalFunction("ggml_nelements", types.int64(types.uintp))
_nrows = types.ExternalFunction("ggml_nrows", types.int64(types.uintp))
_nbytes = types.ExternalFunction("ggml_nbytes", types.uintp(types.uintp))
_tensor_get = types.ExternalFunction(
    "ggml_backend_tensor_get", types.void(types.uintp, types.uintp, types.uintp, types.uintp)
)
_tensor_set = types.ExternalFunction(
    "ggml_backend_tensor_set", types.void(types.uintp, types.uintp, types.uintp, types.uintp)
)
ggml.expose_to_numba()


@intrinsic
def _pointer(_typingctx: Any, _address: Any) -> Any:
    """Turn an integer address into a pointer for `carray`."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.uintp), codegen


@numba.njit(inline="always")
def _array(address, shape, dtype):  # type: ignore[no-untyped-def]
    return numba.carray(_pointer(np.uintp(address)), shape, dtype)


@numba.njit(cache=True, fastmath=_NO_NAN_ASSUMPTIONS)
def dot_blocks(values, scales, h):  # type: ignore[no-untyped-def]
    """Σ_d values[d] · scales[d // 32] · h[d] in float32.

    One flat loop over unsigned indices: a loop over blocks, or signed indices with Python's
    wrap-around, keeps LLVM from vectorising and is ten times slower.
    """
    total = np.float32(0)
    for d in range(np.uint64(values.shape[0])):
        total += np.float32(values[d]) * h[d] * scales[d >> np.uint64(5)]
    return total


@numba.njit(cache=True)
def _layer_of(name, prefix, length):  # type: ignore[no-untyped-def]
    """Layer number after the prefix of a NUL-terminated name, or -1."""
    for i in range(length):
        if name[i] != prefix[i]:
            return -1
    layer = 0
    i = length
    while name[i] != 0:
        digit = int(name[i]) - 48
        if digit < 0 or digit > 9:
            return -1
        layer = layer * 10 + digit
        i += 1
    return layer if i > length else -1


@numba.njit(inline="always")
def _table_row(block, slot, layer):  # type: ignore[no-untyped-def]
    """K, then the addresses of neurons, values, scales and bias."""
    index = (slot * (block[Field.LAST_LAYER] + 1) + layer) * TABLE_FIELDS
    return _array(block[Field.TABLE] + index * 8, TABLE_FIELDS, np.int64)


@numba.njit(cache=True)
def _steer_row(block, layer, group, h):  # type: ignore[no-untyped-def]
    """Steer one row h [D] in place: all deltas first, then all writes. Returns success."""
    width = block[Field.WIDTH]
    starts = _array(block[Field.GROUP_START], group + 2, np.int32)
    n_entries = block[Field.ENTRIES]
    slots = _array(block[Field.ENTRY_SLOT], n_entries, np.int32)
    alphas = _array(block[Field.ENTRY_ALPHA], n_entries, np.float32)
    scratch = _array(block[Field.SCRATCH], block[Field.SCRATCH_LENGTH], np.float32)
    done = 0
    for e in range(starts[group], starts[group + 1]):
        row = _table_row(block, slots[e], layer)
        k_active = row[0]
        if done + k_active > block[Field.SCRATCH_LENGTH]:
            return False
        bias = _array(row[4], k_active, np.float32)
        if row[2] == 0:
            for k in range(k_active):
                scratch[done + k] = alphas[e] * bias[k]
        else:
            values = _array(row[2], (k_active, width), np.int8)
            scales = _array(row[3], (k_active, width // _BLOCK), np.float32)
            for k in range(k_active):
                scratch[done + k] = alphas[e] * (dot_blocks(values[k], scales[k], h) + bias[k])
        done += k_active
    done = 0
    for e in range(starts[group], starts[group + 1]):
        row = _table_row(block, slots[e], layer)
        neurons = _array(row[1], row[0], np.int32)
        for k in range(row[0]):
            h[neurons[k]] += scratch[done + k]
        done += row[0]
    return True


@numba.njit(cache=True)
def steer_rows(block, layer, first, h):  # type: ignore[no-untyped-def]
    """Steer h [T, D] in place; its rows are batch rows first.. (outputs first.. at the last layer).

    Returns a `Trouble` code.
    """
    last = layer == block[Field.LAST_LAYER]
    groups = _array(block[Field.ROW_GROUP], block[Field.N_ROWS], np.int32)
    outputs = _array(block[Field.OUTPUT_ROW], block[Field.N_OUTPUTS], np.int32)
    if last and first + h.shape[0] > outputs.shape[0]:
        return np.int64(Trouble.OUTPUTS)
    if not last and first + h.shape[0] > groups.shape[0]:
        return np.int64(Trouble.ROWS)
    for i in range(h.shape[0]):
        group = np.int64(groups[outputs[first + i]]) if last else np.int64(groups[first + i])
        starts = _array(block[Field.GROUP_START], group + 2, np.int32)
        if starts[group + 1] > starts[group] and not _steer_row(block, layer, group, h[i]):
            return np.int64(Trouble.SCRATCH)
    return np.int64(Trouble.NONE)


@numba.njit(cache=True)
def _steer_tensor(block, layer, tensor):  # type: ignore[no-untyped-def]
    """Steer the rows of one site tensor. Returns a `Trouble` code."""
    n_rows, width = _nrows(tensor), block[Field.WIDTH]
    if n_rows == 0:
        return np.int64(Trouble.NONE)
    size = np.uintp(n_rows * width * 4)
    if _nelements(tensor) != n_rows * width or _nbytes(tensor) != size:
        return np.int64(Trouble.WIDTH)
    first = block[Field.OUTPUT] if layer == block[Field.LAST_LAYER] else block[Field.ROW]
    if block[Field.DEVICE] == 0:
        return steer_rows(
            block, layer, first, _array(_get_data(tensor), (n_rows, width), np.float32)
        )
    if n_rows * width > block[Field.STAGE_LENGTH]:
        return np.int64(Trouble.SCRATCH)
    stage = np.uintp(block[Field.STAGE])
    _tensor_get(tensor, stage, np.uintp(0), size)
    trouble = steer_rows(block, layer, first, _array(stage, (n_rows, width), np.float32))
    _tensor_set(tensor, stage, np.uintp(0), size)
    return trouble


@numba.njit(cache=True)
def _on_node(tensor, ask, user_data):  # type: ignore[no-untyped-def]
    block = _array(user_data, 32, np.int64)
    if block[Field.ENTRIES] == 0 or block[Field.ERROR] != 0:
        return not ask  # nothing to steer, or trouble: ask for nothing, and let the graph run
    prefix = _array(block[Field.PREFIX], block[Field.PREFIX_LENGTH], np.uint8)
    layer = _layer_of(_array(_get_name(tensor), 64, np.uint8), prefix, block[Field.PREFIX_LENGTH])
    if layer < 0 or layer > block[Field.LAST_LAYER]:
        return not ask
    if ask:
        n_rows = _nrows(tensor)
        if layer == 0 and block[Field.LAST_LAYER] > 0:  # a new ubatch begins
            block[Field.ROW] = block[Field.NEXT_ROW]
            block[Field.NEXT_ROW] += n_rows
        if layer == block[Field.LAST_LAYER]:
            block[Field.OUTPUT] = block[Field.NEXT_OUTPUT]
            block[Field.NEXT_OUTPUT] += n_rows
        return _array(block[Field.NEEDED], block[Field.LAST_LAYER] + 1, np.uint8)[layer] != 0
    block[Field.ERROR] = _steer_tensor(block, layer, tensor)
    return True


@numba.cfunc(types.boolean(types.uintp, types.boolean, types.uintp), cache=True)
def eval_callback(tensor, ask, user_data):  # type: ignore[no-untyped-def]
    """`ggml_backend_sched_eval_callback`; `user_data` is the control block's address."""
    return _on_node(tensor, ask, user_data)
