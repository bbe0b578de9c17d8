"""The block of words through which Python and the compiled callback speak."""

from __future__ import annotations

from enum import IntEnum


class Field(IntEnum):
    """Slots of the control block; an address is of an array of the type and shape given."""

    ENTRIES = 0  # U, entries in this batch; 0 makes the callback decline every node
    WIDTH = 1
    LAST_LAYER = 2
    COPY = 3  # 1: go through get/set even where the tensor lies in host memory
    PREFIX = 4  # the site's name with its dash, e.g. b"ffn_geglu-"
    PREFIX_LENGTH = 5
    TABLE = 6
    NEEDED = 7  # uint8 [L]: layers where some entry acts
    N_ROWS = 8
    ROW_START = 9  # int32 [rows + 1]: entries of each row
    ENTRY_ROW = 10  # int32 [U]
    ENTRY_SLOT = 11  # int32 [U]
    ENTRY_ALPHA = 12  # float32 [U]
    ORDER = 13  # int32 [U]: entries ordered by slot, then by row
    N_RUNS = 14
    RUN_START = 15  # int32 [runs + 1]: places in ORDER where another slot begins
    OUTPUT_ROW = 16  # int32 [outputs]
    ROW_OUTPUT = 17  # int32 [rows]: the inverse, -1 for rows without output
    N_OUTPUTS = 18
    ROW = 19  # first batch row of the current ubatch
    NEXT_ROW = 20
    OUTPUT = 21  # first output of the current ubatch
    NEXT_OUTPUT = 22
    LAYER = 23
    LIVE_START = 24  # int32 [runs + 1]: as RUN_START, over entries whose row is in the tensor
    LIVE_ENTRY = 25  # int32 [U]
    LIVE_ROW = 26  # int64 [U]: addresses of their activation rows
    SCRATCH = 27  # float32 [U, SCRATCH_STRIDE]: inner products, then deltas; V h behind them
    SCRATCH_STRIDE = 28
    STAGE = 29  # float32 [STAGE_LENGTH]: copy of a device tensor
    STAGE_LENGTH = 30
    THREADS = 31  # threads of llama.cpp, 1 where they cannot be lent
    WORKER = 32  # address of `multiply_part`
    DOSE_LIMIT = 33  # float64 [1]: most ‖Δ‖/‖h_S‖, infinity for none
    OBSERVED = 34  # uint8 [rows], or 0 where no row is observed
    DOSE = 35  # float32 [rows, L]: ‖Δ‖/‖h_S‖ of observed rows
    N_CAPPED = 36
    CAPPED = 37  # int32 [rows]: layers at which the limit acted
    N_FAULTS = 38
    FAULT_LAYER = 39  # int32 [rows], -1 for none
    FAULT_SLOT = 40  # int32 [rows]
    ERROR = 41
    BUFFER_OFFSET = 42  # see `ggml.buffer_offset`
    MOST_TILES = 43  # tiles of an entry's matrix, at most
    DATA_OFFSET = 44  # see `ggml.data_offset`
    PLAN = 45  # int64 [L, PLAN_FIELDS]: graphs that steer on a device
    RAN = 46  # uint8 [L]: 1 where such a graph ran in this batch
    MET = 47  # int64 [L]: buffer of a layer's tensor that no graph was made for, 0 for none
    FORCE_DEVICE = 48  # 1: run the graphs even where the tensor lies in host memory
    STOPS = 49  # tensors that were steered in this batch
    COPIED = 50  # bytes of activations that went between device and host in this batch
    CONTEXT = 51  # `llama_context *` that decodes, 0 where its backends cannot be asked for
    GIVEN = 52  # int64 [L]: backend of llama.cpp that has a layer's graph to compute, 0 for none
    WAITS = 53  # graphs of this batch that were waited for one by one


CONTROL_WORDS = 56


class Trouble(IntEnum):
    """Codes in `Field.ERROR`."""

    NONE = 0
    WIDTH = 1  # the tensor is not [rows, D] float32
    ROWS = 2  # more rows than the batch had
    OUTPUTS = 3  # more last-layer rows than the batch had outputs
    STAGE = 4  # the stage is too small
    BUFFER = 5  # the tensor lies in no buffer
    DEVICE = 6  # the device failed to compute the step


class TableField(IntEnum):
    """What the table says of one cartridge at one layer; addresses are of arrays."""

    K = 0  # active neurons; 0 where it does nothing
    NEURONS = 1  # int32 [K]
    TILES = 2  # see `pack_tiles`; 0 for a mean shift; of V alone where the matrix is U V
    BIAS = 3  # float32 [K]
    RANK = 4  # r of a matrix that is held as U V; 0 where it is held whole
    LEFT = 5  # float32 [r, K]: Uᵀ


TABLE_FIELDS = len(TableField)


class PlanField(IntEnum):
    """What steers one layer of this batch on its device."""

    GRAPH = 0  # `ggml_cgraph *`; 0 where there is none
    BACKEND = 1  # `ggml_backend_t` that computes it
    DEVICE = 2  # device of the tensor's buffer, 0 for host memory
    N_ROWS = 3  # rows that the graph is for
    N_PATCHES = 4
    PATCHES = 5  # int64 [N_PATCHES, 3]: tensors whose places differ from layer to layer; see below
    HANDLE = 6  # `ggml_backend_dev_t` of the device


PLAN_FIELDS = len(PlanField)
"""A patch is a tensor, its data's address, and its buffer. Buffer 0 stands for the layer's tensor,
in which the data lies at an offset instead."""

OUT_OF_RANGE = 1e12
"""Largest ‖Δ‖ and ‖h_S‖ that are let through.

Far above any activation, and low enough that no norm or product after it can overflow, so that
no NaN ever reaches the KV cache, where another sequence's attention could meet it.
"""
