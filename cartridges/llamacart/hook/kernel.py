"""The compiled eval callback: finds the site, follows the rows, steers them.

Everything it needs lies in one int64 control block whose address llama.cpp hands back as
`user_data`. It runs without the GIL, allocates nothing and never raises: trouble is left
as a code in the block for Python to raise after the decode.

    control block ──► entries (CSR: batch row → (slot, α)), the same entries ordered by slot
                 ──► table [slots, L, 6]: K, r, the addresses of neurons, tiles, bias and Uᵀ

A layer is steered in three passes: `_locate` finds the activation row of each entry, `_multiply`
runs every cartridge's tiles over all of its rows (on llama.cpp's threads), `_write_rows` adds the
deltas row by row. Of a matrix in factors U V the tiles are those of V, and `_expand`
multiplies by U. Nothing of one row enters the sums of another.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import types

from llamacart.hook import openmp
from llamacart.hook.compiled import KEEP
from llamacart.hook.control import (
    CONTROL_WORDS,
    OUT_OF_RANGE,
    PLAN_FIELDS,
    TABLE_FIELDS,
    Field,
    PlanField,
    TableField,
    Trouble,
)
from llamacart.hook.intrinsics import pointer
from llamacart.hook.tile import WIDE, tile_by_four, tile_by_one
from llamacart.llama import ggml
from llamacart.matrix import BLOCK, BLOCK_BYTES, ROWS

# Sums may be reordered, but NaN and infinity must come through.
_NO_NAN_ASSUMPTIONS = {"reassoc", "contract", "nsz", "arcp"}


_ROWS_A_PASS = 64  # activation rows that stay in the L2 cache while tiles stream past
_PARALLEL_FROM = 8  # tile products that are worth waking another thread for

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
_buffer_is_host = types.ExternalFunction("ggml_backend_buffer_is_host", types.uint8(types.uintp))
_buffer_type = types.ExternalFunction("ggml_backend_buffer_get_type", types.uintp(types.uintp))
_type_device = types.ExternalFunction("ggml_backend_buft_get_device", types.uintp(types.uintp))
_graph_compute = types.ExternalFunction(
    "ggml_backend_graph_compute", types.int32(types.uintp, types.uintp)
)
_graph_compute_async = types.ExternalFunction(
    "ggml_backend_graph_compute_async", types.int32(types.uintp, types.uintp)
)
_backend_device = types.ExternalFunction("ggml_backend_get_device", types.uintp(types.uintp))
_tensor_backend = types.ExternalFunction(
    "ggml_backend_sched_get_tensor_backend", types.uintp(types.uintp, types.uintp)
)
_scheduler_of = types.ExternalFunction(ggml.SCHEDULER_OF, types.uintp(types.uintp))
_parallel = types.ExternalFunction(
    "GOMP_parallel", types.void(types.uintp, types.uintp, types.uint32, types.uint32)
)
_thread_num = types.ExternalFunction("omp_get_thread_num", types.int32())
_num_threads = types.ExternalFunction("omp_get_num_threads", types.int32())
ggml.expose_to_numba()
openmp.expose_to_numba()


@numba.njit(inline="always")
def _array(address, shape, dtype):  # type: ignore[no-untyped-def]
    return numba.carray(pointer(np.uintp(address)), shape, dtype)


@numba.njit(inline="always")
def _table_row(block, slot, layer):  # type: ignore[no-untyped-def]
    """What a cartridge does at a layer, by `TableField`."""
    index = (slot * (block[Field.LAST_LAYER] + 1) + layer) * TABLE_FIELDS
    return _array(block[Field.TABLE] + index * 8, TABLE_FIELDS, np.int64)


@numba.njit(cache=KEEP)
def _locate(block, layer, data, n_rows):  # type: ignore[no-untyped-def]
    """List the entries whose rows are in the tensor, with the address of each row."""
    last = layer == block[Field.LAST_LAYER]
    first = block[Field.OUTPUT] if last else block[Field.ROW]
    n_runs, n_entries = block[Field.N_RUNS], block[Field.ENTRIES]
    order = _array(block[Field.ORDER], n_entries, np.int32)
    entry_row = _array(block[Field.ENTRY_ROW], n_entries, np.int32)
    row_output = _array(block[Field.ROW_OUTPUT], block[Field.N_ROWS], np.int32)
    run_start = _array(block[Field.RUN_START], n_runs + 1, np.int32)
    live_start = _array(block[Field.LIVE_START], n_runs + 1, np.int32)
    live_entry = _array(block[Field.LIVE_ENTRY], n_entries, np.int32)
    live_row = _array(block[Field.LIVE_ROW], n_entries, np.int64)
    n_live = 0
    for run in range(n_runs):
        live_start[run] = n_live
        for place in range(run_start[run], run_start[run + 1]):
            entry = order[place]
            row = entry_row[entry]
            local = np.int64(row_output[row] if last else row) - first
            if local >= 0 and local < n_rows:
                live_entry[n_live] = entry
                live_row[n_live] = data + local * block[Field.WIDTH] * 4
                n_live += 1
    live_start[n_runs] = n_live
    block[Field.LAYER] = layer
    return n_live


@numba.njit(cache=KEEP)
def _multiply_tile(block, tile, column, begin, end):  # type: ignore[no-untyped-def]
    """Inner products of one tile with the live entries begin..end-1, from `column` of scratch."""
    n_blocks, n_entries = np.int64(block[Field.WIDTH] // BLOCK), block[Field.ENTRIES]
    entry = _array(block[Field.LIVE_ENTRY], n_entries, np.int32)
    rows = _array(block[Field.LIVE_ROW], n_entries, np.uintp)
    stride = block[Field.SCRATCH_STRIDE] * 4
    out = block[Field.SCRATCH] + column * 4
    tile = np.uintp(tile)
    i = begin
    while i + WIDE <= end:
        tile_by_four(
            tile,
            n_blocks,
            rows[i],
            rows[i + 1],
            rows[i + 2],
            rows[i + 3],
            np.uintp(out + entry[i] * stride),
            np.uintp(out + entry[i + 1] * stride),
            np.uintp(out + entry[i + 2] * stride),
            np.uintp(out + entry[i + 3] * stride),
        )
        i += WIDE
    while i < end:
        tile_by_one(tile, n_blocks, rows[i], np.uintp(out + entry[i] * stride))
        i += 1


@numba.njit(inline="always")
def _factor_column(k_active):  # type: ignore[no-untyped-def]
    """Where the products of V lie in an entry's scratch: behind those of U."""
    return (k_active + ROWS - 1) // ROWS * ROWS


@numba.njit(cache=KEEP)
def _multiply(block, part, parts):  # type: ignore[no-untyped-def]
    """Inner products of every live entry with a share of its cartridge's tiles."""
    n_runs, n_entries = block[Field.N_RUNS], block[Field.ENTRIES]
    tile_bytes = block[Field.WIDTH] // BLOCK * BLOCK_BYTES
    slots = _array(block[Field.ENTRY_SLOT], n_entries, np.int32)
    starts = _array(block[Field.LIVE_START], n_runs + 1, np.int32)
    entry = _array(block[Field.LIVE_ENTRY], n_entries, np.int32)
    for run in range(n_runs):
        start, stop = np.int64(starts[run]), np.int64(starts[run + 1])
        if start == stop:
            continue
        table_row = _table_row(block, slots[entry[start]], block[Field.LAYER])
        k_active, tiles = table_row[TableField.K], table_row[TableField.TILES]
        if tiles == 0:
            continue
        rank = table_row[TableField.RANK]
        column = _factor_column(k_active) if rank > 0 else np.int64(0)
        n_tiles = ((rank if rank > 0 else k_active) + ROWS - 1) // ROWS
        share = (part + run) % parts  # so that no part gets the odd tile of every run
        first, last = n_tiles * share // parts, n_tiles * (share + 1) // parts
        for begin in range(start, stop, _ROWS_A_PASS):
            end = begin + _ROWS_A_PASS if begin + _ROWS_A_PASS < stop else stop
            for t in range(first, last):
                _multiply_tile(block, tiles + t * tile_bytes, column + t * ROWS, begin, end)


@numba.cfunc(types.void(types.uintp), cache=KEEP)
def multiply_part(address):  # type: ignore[no-untyped-def]
    """What each OpenMP thread runs; `address` is the control block's."""
    block = _array(address, CONTROL_WORDS, np.int64)
    _multiply(block, np.int64(_thread_num()), np.int64(_num_threads()))


@numba.njit(cache=KEEP)
def _multiply_all(block, address, n_live):  # type: ignore[no-untyped-def]
    threads = block[Field.THREADS]
    if threads > 1 and n_live * block[Field.MOST_TILES] >= _PARALLEL_FROM:
        # As many threads as llama.cpp uses: a team of another size would be built anew.
        _parallel(np.uintp(block[Field.WORKER]), address, np.uint32(threads), np.uint32(0))
    else:
        _multiply(block, np.int64(0), np.int64(1))


@numba.njit(cache=KEEP, fastmath=_NO_NAN_ASSUMPTIONS)
def _expand(deltas, left, dots):  # type: ignore[no-untyped-def]
    """Deltas [K] ← U dots, from Uᵀ [r, K]: one sum a neuron, in the order of the dots."""
    for k in range(np.uint64(deltas.shape[0])):
        deltas[k] = left[0, k] * dots[0]
    for j in range(np.uint64(1), np.uint64(left.shape[0])):
        dot = dots[j]
        for k in range(np.uint64(deltas.shape[0])):
            deltas[k] += left[j, k] * dot


@numba.njit(cache=KEEP, fastmath=_NO_NAN_ASSUMPTIONS)
def _finish_deltas(deltas, bias, alpha, dots):  # type: ignore[no-untyped-def]
    """Deltas ← α (deltas + b), or α b where there are no inner products. Returns ‖deltas‖²."""
    total = np.float32(0)
    for k in range(np.uint64(bias.shape[0])):
        delta = alpha * (deltas[k] + bias[k]) if dots else alpha * bias[k]
        deltas[k] = delta
        total += delta * delta
    return total


@numba.njit(cache=KEEP)
def _write_row(block, layer, row, h):  # type: ignore[no-untyped-def]
    """Steer one row h [D] in place: all deltas are known before the first is added."""
    starts = _array(block[Field.ROW_START], row + 2, np.int32)
    n_entries = block[Field.ENTRIES]
    slots = _array(block[Field.ENTRY_SLOT], n_entries, np.int32)
    alphas = _array(block[Field.ENTRY_ALPHA], n_entries, np.float32)
    stride = block[Field.SCRATCH_STRIDE]
    scratch = _array(block[Field.SCRATCH], (n_entries, stride), np.float32)
    limit = _array(block[Field.DOSE_LIMIT], 1, np.float64)[0]
    moved, size, largest, slot = 0.0, 0.0, -1.0, np.int32(-1)
    for e in range(starts[row], starts[row + 1]):
        table_row = _table_row(block, slots[e], layer)
        k_active = table_row[TableField.K]
        if k_active == 0:
            continue
        bias = _array(table_row[TableField.BIAS], k_active, np.float32)
        neurons = _array(table_row[TableField.NEURONS], k_active, np.int32)
        rank = table_row[TableField.RANK]
        if rank > 0:
            left = _array(table_row[TableField.LEFT], (rank, k_active), np.float32)
            _expand(scratch[e, :k_active], left, scratch[e, _factor_column(k_active) :])
        own = _finish_deltas(scratch[e], bias, alphas[e], table_row[TableField.TILES] != 0)
        if not own <= largest and not np.isnan(largest):  # NaN counts as the largest
            largest, slot = own, slots[e]
        moved += own
        for k in range(k_active):
            value = np.float64(h[neurons[k]])
            size += value * value
    if slot < 0:
        return
    if not (moved <= OUT_OF_RANGE * OUT_OF_RANGE and size <= OUT_OF_RANGE * OUT_OF_RANGE):
        faults = _array(block[Field.FAULT_LAYER], row + 1, np.int32)
        if faults[row] < 0:
            faults[row] = layer
            _array(block[Field.FAULT_SLOT], row + 1, np.int32)[row] = slot
            block[Field.N_FAULTS] += 1
        h[:] = 0  # what follows is worthless, but must not poison the rows beside it
        return
    share = np.float32(1)
    if moved > limit * limit * size:
        share = np.float32(limit * np.sqrt(size / moved))
        _array(block[Field.CAPPED], row + 1, np.int32)[row] += 1
        block[Field.N_CAPPED] += 1
    if block[Field.OBSERVED] != 0 and _array(block[Field.OBSERVED], row + 1, np.uint8)[row]:
        doses = _array(block[Field.DOSE], (row + 1, block[Field.LAST_LAYER] + 1), np.float32)
        doses[row, layer] = share * np.sqrt(moved / size) if size > 0 else np.inf
    for e in range(starts[row], starts[row + 1]):
        table_row = _table_row(block, slots[e], layer)
        neurons = _array(table_row[TableField.NEURONS], table_row[TableField.K], np.int32)
        for k in range(table_row[TableField.K]):
            h[neurons[k]] += share * scratch[e, k]


@numba.njit(cache=KEEP)
def steer_rows(block, address, layer, h):  # type: ignore[no-untyped-def]
    """Steer h [T, D] in place: the rows of the current ubatch, or its outputs at the last layer.

    `address` is the control block's. Returns a `Trouble` code.
    """
    last = layer == block[Field.LAST_LAYER]
    first = block[Field.OUTPUT] if last else block[Field.ROW]
    outputs = _array(block[Field.OUTPUT_ROW], block[Field.N_OUTPUTS], np.int32)
    if last and first + h.shape[0] > block[Field.N_OUTPUTS]:
        return np.int64(Trouble.OUTPUTS)
    if not last and first + h.shape[0] > block[Field.N_ROWS]:
        return np.int64(Trouble.ROWS)
    n_live = _locate(block, layer, h.ctypes.data, h.shape[0])
    if n_live == 0:
        return np.int64(Trouble.NONE)
    _multiply_all(block, address, n_live)
    starts = _array(block[Field.ROW_START], block[Field.N_ROWS] + 1, np.int32)
    for i in range(h.shape[0]):
        row = np.int64(outputs[first + i]) if last else np.int64(first + i)
        if starts[row + 1] > starts[row]:
            _write_row(block, layer, row, h[i])
    return np.int64(Trouble.NONE)


@numba.njit(cache=KEEP)
def _steered_span(block, layer, n_rows):  # type: ignore[no-untyped-def]
    """First row of the site's tensor on which something acts, and the one past the last.

    Rows that the batch does not have count, so that `steer_rows` gets to report them.
    """
    last = layer == block[Field.LAST_LAYER]
    first = block[Field.OUTPUT] if last else block[Field.ROW]
    if first + n_rows > (block[Field.N_OUTPUTS] if last else block[Field.N_ROWS]):
        return np.int64(0), np.int64(n_rows)
    outputs = _array(block[Field.OUTPUT_ROW], block[Field.N_OUTPUTS], np.int32)
    starts = _array(block[Field.ROW_START], block[Field.N_ROWS] + 1, np.int32)
    begin, end = np.int64(0), np.int64(0)
    for i in range(n_rows):
        row = np.int64(outputs[first + i]) if last else np.int64(first + i)
        if starts[row + 1] > starts[row]:
            if end == 0:
                begin = np.int64(i)
            end = np.int64(i + 1)
    return begin, end


@numba.njit(cache=KEEP)
def _backend_of(block, tensor, device):  # type: ignore[no-untyped-def]
    """The backend with which llama.cpp computed a tensor, if it is one of that device, else 0.

    What it is given comes after what it has computed, and before what llama.cpp gives it next,
    so that nobody waits in between. A backend of our own knows no such order.
    """
    if block[Field.CONTEXT] == 0:
        return np.uintp(0)
    scheduler = _scheduler_of(np.uintp(block[Field.CONTEXT]))
    backend = _tensor_backend(scheduler, tensor)
    if backend == 0 or _backend_device(backend) != np.uintp(device):
        return np.uintp(0)
    return backend


@numba.njit(cache=KEEP)
def _steer_on_device(block, layer, tensor, buffer, n_rows):  # type: ignore[no-untyped-def]
    """Compute the layer's graph on the tensor where it lies.

    Returns a `Trouble` code, or -1 where there is no graph for such a tensor.
    """
    start = block[Field.PLAN] + layer * PLAN_FIELDS * 8
    plan = _array(start, PLAN_FIELDS, np.int64)
    first = block[Field.OUTPUT] if layer == block[Field.LAST_LAYER] else block[Field.ROW]
    device = np.int64(_type_device(_buffer_type(buffer)))
    graph, rows = plan[PlanField.GRAPH], plan[PlanField.N_ROWS]
    # A batch that llama.cpp has split has other rows than the graph is for.
    if graph == 0 or rows != n_rows or first != 0 or plan[PlanField.DEVICE] != device:
        _array(block[Field.MET], layer + 1, np.int64)[layer] = np.int64(buffer)
        return np.int64(-1)
    data = np.int64(_get_data(tensor))
    n_patches = plan[PlanField.N_PATCHES]
    patches = _array(plan[PlanField.PATCHES], (n_patches, 3), np.int64)
    for i in range(n_patches):
        own = patches[i, 2] == 0  # in the layer's tensor
        address = patches[i, 1] + data if own else patches[i, 1]
        _array(patches[i, 0] + block[Field.DATA_OFFSET], 1, np.int64)[0] = address
        home = np.int64(buffer) if own else patches[i, 2]
        _array(patches[i, 0] + block[Field.BUFFER_OFFSET], 1, np.int64)[0] = home
    _array(block[Field.RAN], layer + 1, np.uint8)[layer] = 1
    backend = _backend_of(block, tensor, plan[PlanField.HANDLE])
    if backend != 0:
        _array(block[Field.GIVEN], layer + 1, np.int64)[layer] = np.int64(backend)
        status = _graph_compute_async(backend, np.uintp(graph))
    else:
        block[Field.WAITS] += 1
        status = _graph_compute(np.uintp(plan[PlanField.BACKEND]), np.uintp(graph))
    return np.int64(Trouble.NONE if status == 0 else Trouble.DEVICE)


@numba.njit(cache=KEEP)
def _steer_tensor(block, address, layer, tensor):  # type: ignore[no-untyped-def]
    """Steer the rows of one site tensor. Returns a `Trouble` code."""
    n_rows, width = _nrows(tensor), block[Field.WIDTH]
    if n_rows == 0:
        return np.int64(Trouble.NONE)
    size = np.uintp(n_rows * width * 4)
    if _nelements(tensor) != n_rows * width or _nbytes(tensor) != size:
        return np.int64(Trouble.WIDTH)
    buffer = _array(tensor + np.uintp(block[Field.BUFFER_OFFSET]), 1, np.uintp)[0]
    if buffer == 0:
        return np.int64(Trouble.BUFFER)
    block[Field.STOPS] += 1
    # Asked of each tensor: llama.cpp moves layers, and single products, between devices.
    on_host = _buffer_is_host(buffer) != 0
    if block[Field.FORCE_DEVICE] != 0 or (block[Field.COPY] == 0 and not on_host):
        outcome = _steer_on_device(block, layer, tensor, buffer, n_rows)
        if outcome >= 0:
            return outcome
    if block[Field.COPY] == 0 and on_host:
        return steer_rows(
            block, address, layer, _array(_get_data(tensor), (n_rows, width), np.float32)
        )
    if n_rows * width > block[Field.STAGE_LENGTH]:
        return np.int64(Trouble.STAGE)
    stage = np.uintp(block[Field.STAGE])
    begin, end = _steered_span(block, layer, n_rows)
    offset, size = np.uintp(begin * width * 4), np.uintp((end - begin) * width * 4)
    _tensor_get(tensor, stage + offset, offset, size)  # nobody looks at the other rows
    block[Field.COPIED] += np.int64(2 * size)
    trouble = steer_rows(block, address, layer, _array(stage, (n_rows, width), np.float32))
    if trouble == Trouble.NONE:
        _tensor_set(tensor, stage + offset, offset, size)
    return trouble


@numba.njit(cache=KEEP)
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


@numba.njit(cache=KEEP)
def _on_node(tensor, ask, user_data):  # type: ignore[no-untyped-def]
    block = _array(user_data, CONTROL_WORDS, np.int64)
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
        if _array(block[Field.NEEDED], block[Field.LAST_LAYER] + 1, np.uint8)[layer] == 0:
            return False
        begin, end = _steered_span(block, layer, n_rows)
        return begin < end  # asking for a node costs a cut through the graph
    block[Field.ERROR] = _steer_tensor(block, user_data, layer, tensor)
    return True


@numba.cfunc(types.boolean(types.uintp, types.boolean, types.uintp), cache=KEEP)
def eval_callback(tensor, ask, user_data):  # type: ignore[no-untyped-def]
    """`ggml_backend_sched_eval_callback`; `user_data` is the control block's address."""
    return _on_node(tensor, ask, user_data)
