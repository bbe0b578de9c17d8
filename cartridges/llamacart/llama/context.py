"""One llama.cpp context: decode batches, read logits, manage the KV cache."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Protocol

import gguf
import llama_cpp
import numpy as np

from llamacart.errors import ContextOverflowError, EngineError, InputError
from llamacart.llama.closing import Closing
from llamacart.llama.threadpool import ThreadPool
from llamacart.machine import pages, sharing
from llamacart.machine.processors import choose_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart.llama.weights import Weights
    from llamacart.values.batch import Batch

MAX_SEQUENCES = 256
"""`LLAMA_MAX_SEQ`: sequences that one context can hold."""


class EvalHook(Protocol):
    """What a context needs of a hook on the graph's nodes."""

    @property
    def callback(self) -> Any:
        """A `ggml_backend_sched_eval_callback`, alive as long as the context."""
        ...

    @property
    def user_data(self) -> int:
        """Address passed back to the callback."""
        ...

    def begin(self, n_rows: int, output_rows: NDArray[np.int32], context: int) -> None:
        """Called before each decode.

        Args:
            n_rows: The batch's rows.
            output_rows: Those with outputs, in order.
            context: The `llama_context *` that decodes.
        """
        ...

    def use_threads(self, n: int) -> None:
        """Called before `begin` where the context computes with another number of threads."""
        ...

    def end(self, status: int) -> None:
        """Called after each decode with its status; raises what the hook has to raise."""
        ...


class Context(Closing):
    """A KV cache and a compute graph for one model.

    The KV cache is unified, so that a batch is split into ubatches in batch order and any
    sequence may use any free cell, and sliding-window layers keep all cells, so that a
    range can be removed wherever it lies.

    Args:
        model: The model; must outlive the context.
        n_ctx: KV cells, shared by all sequences.
        n_batch: Most rows in one decode.
        n_ubatch: Most rows computed at once.
        n_seq_max: Sequences, at most 256.
        n_outputs: Most rows with logits in one decode (default `n_batch`). llama.cpp reserves
            n_outputs × n_vocab floats twice, so a large vocabulary wants this small.
        n_threads: Threads for compute, 1 to 512. None means `default_threads`, fewer while other
            programs keep processors busy (`llamacart.machine.sharing`).
        hook: Called for the graph's nodes.
        embeddings: Keep the last hidden state, after the final norm, of rows with outputs.
    """

    def __init__(
        self,
        model: Weights,
        *,
        n_ctx: int,
        n_batch: int = 512,
        n_ubatch: int | None = None,
        n_seq_max: int = 1,
        n_outputs: int | None = None,
        n_threads: int | None = None,
        hook: EvalHook | None = None,
        embeddings: bool = False,
    ) -> None:
        if not 1 <= n_seq_max <= MAX_SEQUENCES:
            raise InputError(
                f"n_seq_max has value {n_seq_max}; llama.cpp holds 1 to {MAX_SEQUENCES} sequences"
            )
        self.model = model
        # llama.cpp lowers its own limit likewise, and aborts the process on a larger batch.
        n_batch = min(n_batch, n_ctx)
        self.n_batch = n_batch
        self.n_outputs = min(n_outputs or n_batch, n_batch)
        self.n_seq_max = n_seq_max
        self._hook = hook
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = n_batch
        params.n_ubatch = min(n_ubatch or n_batch, n_batch)
        params.n_seq_max = n_seq_max
        # llama.cpp sizes its output buffer for at least n_seq_max rows and asserts on it.
        params.n_outputs_max = max(self.n_outputs, n_seq_max)
        params.n_outputs_max_per_seq = self.n_outputs
        # A device computes with as many threads as it likes.
        shares = n_threads is None and not model.uses_device
        self._sharing = sharing.of_this_process() if shares else None
        n_threads = choose_threads(n_threads)
        self._most_threads = self._n_threads = n_threads
        params.n_threads = params.n_threads_batch = n_threads
        params.kv_unified = True
        params.swa_full = True
        params.no_perf = True
        # Else llama.cpp moves large products of a model in host memory to a device that is idle:
        # their rows differ from those of few rows, and each is copied there and back.
        params.op_offload = model.uses_device
        params.embeddings = embeddings
        params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
        params.flash_attn_type = model.flash_attention
        if model.batch_invariant:
            # With keys and values of different types llama.cpp's CPU attention takes the one path
            # that handles each row by itself, whatever the number of rows or cells.
            params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
            params.type_k = llama_cpp.GGML_TYPE_F16
            params.type_v = gguf.GGMLQuantizationType.BF16
        if hook is not None:
            params.cb_eval = hook.callback
            params.cb_eval_user_data = hook.user_data
        self._handle = llama_cpp.llama_init_from_model(model.handle, params)
        if not self._handle:
            raise EngineError(
                f"llama.cpp cannot make a context of {n_ctx} cells and {n_batch} rows a batch"
            )
        self._threads = ThreadPool(n_threads)
        self._threads.attach(self._handle)
        self.n_ctx = int(llama_cpp.llama_n_ctx(self._handle))
        self._memory = llama_cpp.llama_get_memory(self._handle)
        # Rows that a token sees in sliding-window layers, itself included; 0 without such layers.
        self._n_swa = max(0, int(llama_cpp.llama_model_n_swa(model.handle)))
        self._batch = llama_cpp.llama_batch_init(n_batch, 0, n_seq_max)
        raw = self._batch
        # Views made once: making them costs more than a small batch takes to fill in.
        self._tokens, self._positions, self._counts, self._wanted = (
            np.ctypeslib.as_array(field, (n_batch,))
            for field in (raw.token, raw.pos, raw.n_seq_id, raw.logits)
        )
        self._sequences = [raw.seq_id[i] for i in range(n_batch)]

    @property
    def handle(self) -> Any:
        """The `llama_context *`."""
        return self._handle

    def close(self) -> None:
        """Free the KV cache and the compute buffers."""
        if self._handle:
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self._handle)
            self._handle = None
            self._threads.close()

    def spare_logits(self) -> None:
        """Give back the memory of logits, for a pass that ends before any are computed.

        llama.cpp clears n_seq_max rows of them beforehand, which is when they take memory.
        """
        if self.model.uses_device:  # it may have pinned them
            return
        start = ctypes.cast(llama_cpp.llama_get_logits(self._handle), ctypes.c_void_p).value or 0
        pages.give_back(range(start, start + 4 * self.model.n_vocab * self.n_seq_max))

    def decode(self, batch: Batch) -> None:
        """Run the rows; afterwards `logits` answers for those with outputs.

        Raises:
            ContextOverflowError: No free KV cells; nothing was added to the cache.
            EngineError: llama.cpp failed, or the hook lost track of rows.
        """
        n_rows = len(batch.tokens)
        if not 0 < n_rows <= self.n_batch:
            raise EngineError(f"a batch of {n_rows} rows was given; 1 to {self.n_batch} fit")
        raw = self._batch
        raw.n_tokens = n_rows
        self._tokens[:n_rows] = batch.tokens
        self._positions[:n_rows] = batch.positions
        outputs = np.asarray(batch.outputs, bool)
        if outputs.sum() > self.n_outputs:
            raise EngineError(f"{outputs.sum()} rows want logits, the context has {self.n_outputs}")
        self._wanted[:n_rows] = outputs
        for place, sequence in zip(self._sequences, batch.sequences, strict=False):
            place[0] = sequence
        self._counts[:n_rows] = 1
        for row, others in batch.also.items():
            for number, other in enumerate(others, start=1):
                self._sequences[row][number] = other
            self._counts[row] = 1 + len(others)
        if self._sharing is not None:
            self._use_threads(self._sharing.threads(self._most_threads))
        if self._hook is not None:
            output_rows = np.flatnonzero(outputs).astype(np.int32)
            self._hook.begin(n_rows, output_rows, self._handle)
        status = int(llama_cpp.llama_decode(self._handle, raw))
        if self._hook is not None:
            self._hook.end(status)
        if status == 1:
            raise ContextOverflowError(
                f"no {n_rows} free cells are left in a context of {self.n_ctx}"
            )
        if status != 0:
            raise EngineError(f"llama_decode failed with status {status} on {n_rows} rows")

    def _use_threads(self, n: int) -> None:
        if n == self._n_threads:
            return
        llama_cpp.llama_set_n_threads(self._handle, n, n)
        if self._hook is not None:
            self._hook.use_threads(n)
        self._n_threads = n

    def logits(self, row: int) -> NDArray[np.float32]:
        """Logits [n_vocab] after batch row `row`, a view valid until the next decode."""
        if not self._handle:
            raise EngineError("the context is closed")
        pointer = llama_cpp.llama_get_logits_ith(self._handle, row)
        if not pointer:
            raise EngineError(f"row {row} of the last batch has no logits")
        return np.ctypeslib.as_array(pointer, (self.model.n_vocab,))

    def hidden(self, row: int) -> NDArray[np.float32]:
        """Hidden state [n_embd] of batch row `row`, a view valid until the next decode.

        Raises:
            EngineError: The context was made without `embeddings`, or the row has no output.
        """
        if not self._handle:
            raise EngineError("the context is closed")
        pointer = llama_cpp.llama_get_embeddings_ith(self._handle, row)
        if not pointer:
            raise EngineError(f"row {row} of the last batch has no hidden state")
        return np.ctypeslib.as_array(pointer, (self.model.n_embd,))

    def clear(self) -> None:
        """Forget every sequence."""
        llama_cpp.llama_memory_clear(self._memory, False)

    def remove(self, sequence: int, start: int = 0, stop: int = -1) -> None:
        """Free the cells of `sequence` at positions start..stop-1 (-1 = to the end)."""
        self._check(sequence)
        if not llama_cpp.llama_memory_seq_rm(self._memory, sequence, start, stop):
            raise EngineError(f"positions {start}..{stop} of sequence {sequence} cannot be removed")

    def copy(self, source: int, target: int, stop: int) -> None:
        """Let `target` consist of positions 0..stop-1 of `source`, whose cells both then share.

        What `target` held is dropped, and nothing is done where it is `source`. Where `source`
        does not hold all of them, `target` holds as little: see `holds`.
        """
        self._check(source)
        self._check(target)
        if source == target:
            return
        # llama.cpp counts a cell twice that it adds to a sequence which has it already.
        self.remove(target)
        if stop > 0:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, stop)

    def lend(self, sequence: int, holder: int, start: int = 0) -> None:
        """Let `holder` hold the cells of `sequence` from position `start` on as well.

        Cells with a holder left are not free, so that llama.cpp goes on placing rows behind all
        earlier ones.
        """
        self._check(sequence)
        self._check(holder)
        llama_cpp.llama_memory_seq_cp(self._memory, sequence, holder, start, -1)

    def holds(self, sequence: int, n: int) -> bool:
        """Whether `sequence` has all rows that a token at position `n` or later attends to.

        Rows behind the sliding window may be missing: llama.cpp gives their cells to others when
        no more are free, and saves none of them in a state. It then drops all rows before the
        last one it gave away, so that the lowest position tells.
        """
        self._check(sequence)
        if n <= 0:
            return True
        last = int(llama_cpp.llama_memory_seq_pos_max(self._memory, sequence))
        first = int(llama_cpp.llama_memory_seq_pos_min(self._memory, sequence))
        needed = max(0, n - self._n_swa + 1) if self._n_swa else 0
        return last >= n - 1 and 0 <= first <= needed

    def save(self, sequence: int) -> bytes:
        """A copy of a sequence's cells in host memory, for `restore` of a like context.

        Raises:
            EngineError: llama.cpp failed.
        """
        return self._state(sequence).tobytes()

    def _state(self, sequence: int) -> NDArray[np.uint8]:
        self._check(sequence)
        size = int(llama_cpp.llama_state_seq_get_size(self._handle, sequence))
        state = np.empty(size, np.uint8)
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        written = int(llama_cpp.llama_state_seq_get_data(self._handle, pointer, size, sequence))
        if not 0 < written == size:
            raise EngineError(f"the state of sequence {sequence} cannot be saved")
        return state

    def move(self, sequence: int) -> bool:
        """Put a sequence's rows into the first free cells, its own among them.

        Its cells come in the order of its rows, if no cell before the first free one is free. Its
        state is in host memory once meanwhile: as many bytes as its rows take in the KV cache.

        Returns:
            False where llama.cpp cannot; the sequence is then empty.
        """
        try:
            state = self._state(sequence)
        except EngineError:
            self.remove(sequence)
            return False
        return self._put(sequence, state.ctypes.data, len(state))

    def has_masked_rows(self, sequence: int) -> bool:
        """Whether some rows of a sequence lie behind the sliding window of its next one."""
        self._check(sequence)
        last = int(llama_cpp.llama_memory_seq_pos_max(self._memory, sequence))
        return 0 < self._n_swa <= last + 1

    def restore(self, sequence: int, state: bytes) -> bool:
        """Make `sequence` what was saved in `state`.

        Returns:
            False where llama.cpp finds no room or no sense in it; the sequence is then empty.
        """
        address = ctypes.cast(ctypes.c_char_p(state), ctypes.c_void_p).value or 0
        return self._put(sequence, address, len(state))

    def _put(self, sequence: int, address: int, size: int) -> bool:
        self.remove(sequence)
        pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8))
        read = llama_cpp.llama_state_seq_set_data(self._handle, pointer, size, sequence)
        if not 0 < read == size:
            # With a sliding window there are two caches, and the first may have been filled.
            self.remove(sequence)
            return False
        return True

    def _check(self, sequence: int) -> None:
        # llama.cpp aborts the process on ids out of range, and has no memory once it is closed.
        if not self._handle:
            raise EngineError("the context is closed")
        if not 0 <= sequence < self.n_seq_max:
            raise EngineError(f"sequence {sequence} is not among 0..{self.n_seq_max - 1}")
