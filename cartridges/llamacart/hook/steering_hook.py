"""The steering hook: which cartridges are resident, and which act on which row of a batch."""

from __future__ import annotations

import ctypes
import operator
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import llama_cpp
import numpy as np

from llamacart.cartridge import Cartridge, check_alpha, check_fits
from llamacart.errors import EngineError, InputError
from llamacart.hook import openmp
from llamacart.hook.control import (
    CONTROL_WORDS,
    PLAN_FIELDS,
    TABLE_FIELDS,
    Field,
    TableField,
    Trouble,
)
from llamacart.hook.device.backend import device_of
from llamacart.hook.device.report import note
from llamacart.hook.device.steering import DeviceSteering
from llamacart.hook.kernel import eval_callback, multiply_part, steer_rows
from llamacart.hook.memory import side_by_side
from llamacart.llama import ggml
from llamacart.matrix import ROWS, FactoredMatrix, pack_tiles
from llamacart.values.report import NOTHING_TO_REPORT, Fault, StepReport
from llamacart.values.steering import effective

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart.cartridge import LayerMap
    from llamacart.llama.model import Model
    from llamacart.matrix import QuantizedMatrix
    from llamacart.values.steering import Steering

_TROUBLE = {
    Trouble.WIDTH: "the site's tensor is not float32 [rows, D]",
    Trouble.ROWS: "the graph holds more rows than the batch",
    Trouble.OUTPUTS: "the last layer holds more rows than the batch has outputs",
    Trouble.BUFFER: "the site's tensor lies in no buffer",
    Trouble.STAGE: "the copy of a device tensor is too small",
    Trouble.DEVICE: "the device failed to compute the step",
}

Place = Literal["auto", "host", "device"]
"""Where rows in a device's memory are steered: there, on the host by copies, or on a device even
if they lie in the host's memory (for tests). `auto` is there, or by copies if the device cannot."""


_ARRAYS = 4  # of a layer, see `_layer_arrays`


@dataclass(frozen=True)
class _LoadedCartridge:
    """Arrays of a loaded cartridge, kept alive while the kernel holds their addresses."""

    name: str
    slot: int
    arrays: tuple[NDArray[Any], ...]


class SteeringHook:
    """Steers the rows of each decode by the compiled callback.

    Usage: `load` cartridges, then before each decode `set_rows` with one `Steering` a row, and
    after it `take_report`. Not thread-safe: one thread decodes and calls this.

    Args:
        model: The model whose contexts use this hook.
        max_rows: Most rows in one batch.
        n_threads: Threads of the context; they are lent to the hook where llama.cpp's CPU backend
            runs on OpenMP.
        dose_limit: Most ‖Δ‖/‖h_S‖ of a row at a layer; what is more is scaled down to it. None
            means no limit.
        copy: Go through `ggml_backend_tensor_get/set` as for a device even on the host.
        place: Where rows in a device's memory are steered.
        force: Accept cartridges made for other weights of the same shape.

    Raises:
        InputError: `dose_limit` is not a number above 0.
    """

    def __init__(
        self,
        model: Model,
        *,
        max_rows: int,
        n_threads: int = 1,
        dose_limit: float | None = None,
        copy: bool = False,
        place: Place = "auto",
        force: bool = False,
    ) -> None:
        if dose_limit is not None and not dose_limit > 0:
            raise InputError(
                f"dose_limit has value {dose_limit!r}; a number above 0 is needed",
                param="dose_limit",
            )
        self._model = model
        self._force = force
        self._width, self._n_layer = model.n_ff, model.n_layer
        self._max_rows = max_rows
        self._residents: dict[str, _LoadedCartridge] = {}
        self._rows: list[Steering] = []
        self._acting: list[list[tuple[int, float]]] = []
        self._observed: list[bool] | None = None
        self._device: DeviceSteering | None = None
        if place != "host" and not copy:
            self._device = DeviceSteering(self._width, self._n_layer, dose_limit)
            weakref.finalize(self, self._device.close)
        self._planned: bytes | None = None
        # Arrays that the kernel knows by address, kept alive here.
        self._arrays: dict[Field, NDArray[Any]] = {}
        self._block = np.zeros(CONTROL_WORDS, np.int64)
        prefix = np.frombuffer(f"{model.site_node}-".encode(), np.uint8)
        for field, value in (
            (Field.WIDTH, self._width),
            (Field.LAST_LAYER, self._n_layer - 1),
            (Field.COPY, int(copy)),
            (Field.PREFIX_LENGTH, len(prefix)),
            (Field.STAGE_LENGTH, max_rows * self._width),
            (Field.BUFFER_OFFSET, ggml.buffer_offset()),
            (Field.DATA_OFFSET, ggml.data_offset()),
            (Field.FORCE_DEVICE, int(place == "device")),
            (Field.WORKER, multiply_part.address),
        ):
            self._block[field] = value
        self.use_threads(n_threads)
        self._place(
            {
                Field.TABLE: np.zeros((0, self._n_layer, TABLE_FIELDS), np.int64),
                Field.PREFIX: prefix,
                Field.NEEDED: np.zeros(self._n_layer, np.uint8),
                Field.OUTPUT_ROW: np.zeros(max_rows, np.int32),
                Field.ROW_OUTPUT: np.zeros(max_rows, np.int32),
                Field.SCRATCH: np.zeros(0, np.float32),
                Field.DOSE_LIMIT: np.array([dose_limit or np.inf], np.float64),
                Field.CAPPED: np.zeros(max_rows, np.int32),
                Field.FAULT_LAYER: np.full(max_rows, -1, np.int32),
                Field.FAULT_SLOT: np.zeros(max_rows, np.int32),
            }
        )
        no_plan = np.zeros((self._n_layer, PLAN_FIELDS), np.int64)
        self._point(Field.PLAN, self._device.table if self._device else no_plan)
        ran = np.zeros(self._n_layer, np.uint8)
        self._point(Field.RAN, self._device.ran if self._device else ran)
        self._point(Field.MET, np.zeros(self._n_layer, np.int64))
        self._point(Field.GIVEN, np.zeros(self._n_layer, np.int64))
        # Takes memory only once a device's tensor is copied into it.
        self._point(Field.STAGE, np.zeros(self._block[Field.STAGE_LENGTH], np.float32))
        self.callback = ctypes.cast(
            eval_callback.address, llama_cpp.ggml_backend_sched_eval_callback
        )
        self.user_data = self._block.ctypes.data

    # --- residents --------------------------------------------------------------------------

    def load(self, cartridge: Cartridge) -> None:
        """Make a cartridge resident; a second load of equal content does nothing.

        Its matrices are then held as tiles, which the cartridge and all hooks share.

        Raises:
            CartridgeMismatchError: Made for another model; nothing has changed.
        """
        check_fits(cartridge, self._model.fingerprint, force=self._force)
        if cartridge.content_hash in self._residents:
            return
        used = {resident.slot for resident in self._residents.values()}
        slot = next(i for i in range(len(used) + 1) if i not in used)
        table = self._arrays[Field.TABLE]
        if slot >= len(table):
            grown = np.zeros((max(4, 2 * len(table)), *table.shape[1:]), np.int64)
            grown[: len(table)] = table
            table = self._point(Field.TABLE, grown)
        table[slot] = 0
        arrays = side_by_side([a for m in cartridge.layers for a in _layer_arrays(m)])
        for i, layer_map in enumerate(cartridge.layers):
            neurons, bias, left, tiles = arrays[_ARRAYS * i : _ARRAYS * (i + 1)]
            matrix = _tiled(layer_map)
            if matrix is not None:
                tiles = arrays[_ARRAYS * i + 3] = matrix.hold(tiles)
            row = table[slot, layer_map.layer]
            row[TableField.K] = len(neurons)
            row[TableField.NEURONS] = neurons.ctypes.data
            row[TableField.TILES] = tiles.ctypes.data if matrix is not None else 0
            row[TableField.BIAS] = bias.ctypes.data
            row[TableField.RANK] = len(left)
            row[TableField.LEFT] = left.ctypes.data if len(left) else 0
        self._residents[cartridge.content_hash] = _LoadedCartridge(
            cartridge.name, slot, tuple(arrays)
        )
        self._rows = []
        if self._device is not None:
            self._device.load(slot, cartridge)

    def unload(self, cartridge: Cartridge) -> None:
        """Forget a resident cartridge and free its arrays; unknown ones are ignored."""
        resident = self._residents.pop(cartridge.content_hash, None)
        if resident is not None:
            self._arrays[Field.TABLE][resident.slot] = 0
            self._rows = []
            if self._device is not None:
                self._device.unload(resident.slot)

    # --- batches ----------------------------------------------------------------------------

    def set_rows(self, rows: Sequence[Steering], observed: Sequence[bool] | None = None) -> None:
        """Say what acts on each row of the next decode.

        Args:
            rows: One steering a batch row; every cartridge must be loaded.
            observed: Rows whose doses the report is to hold; None means no row.

        Raises:
            EngineError: Too many rows, or a cartridge that is not loaded.
            AlphaError: An α that is not finite or beyond ±10.
        """
        if len(rows) > self._max_rows:
            raise EngineError(f"{len(rows)} rows were given to a hook for {self._max_rows}")
        # While sequences decode, step after step brings the same rows.
        if len(rows) != len(self._rows) or not all(map(operator.is_, rows, self._rows)):
            self._rows = []
            self._index(rows)
            self._rows = list(rows)
        self._block[Field.ENTRIES] = len(self._arrays[Field.ENTRY_SLOT])
        self._observe(observed if observed is not None and any(observed) else None)

    def apply(self, h: NDArray[np.float32], layer: int) -> None:
        """Steer h [T, D] in place as the callback would at `layer`, after `set_rows` with T rows.

        For tests and tools: it runs the compiled kernel without a model's graph.
        """
        self._begin(len(h), np.arange(len(h), dtype=np.int32))
        self._raise_trouble(Trouble(int(steer_rows(self._block, self.user_data, layer, h))))

    def begin(self, n_rows: int, output_rows: NDArray[np.int32], context: int = 0) -> None:
        """See `EvalHook`: checks that rows were set for this batch."""
        self._begin(n_rows, output_rows)
        self._block[Field.CONTEXT] = context if ggml.scheduler_getter() else 0
        if self._device is not None and self._block[Field.ENTRIES]:
            outputs = output_rows.tobytes()
            if outputs != self._planned:
                self._device.choose(self._acting, output_rows.tolist())
                self._planned = outputs

    def _begin(self, n_rows: int, output_rows: NDArray[np.int32]) -> None:
        block = self._block
        if block[Field.ENTRIES] and len(self._rows) != n_rows:
            raise EngineError(
                f"steering was set for {len(self._rows)} rows, the batch has {n_rows}"
            )
        if n_rows > self._max_rows:
            raise EngineError(f"a batch of {n_rows} rows was given to a hook for {self._max_rows}")
        n_outputs = len(output_rows)
        self._arrays[Field.OUTPUT_ROW][:n_outputs] = output_rows
        row_output = self._arrays[Field.ROW_OUTPUT]
        row_output[:n_rows] = -1
        row_output[output_rows] = np.arange(n_outputs)
        block[Field.N_ROWS] = n_rows
        block[Field.N_OUTPUTS] = n_outputs
        block[Field.ROW : Field.NEXT_OUTPUT + 1] = 0
        block[Field.ERROR] = Trouble.NONE
        block[Field.STOPS] = block[Field.COPIED] = block[Field.WAITS] = block[Field.CONTEXT] = 0
        self._arrays[Field.RAN][:] = 0

    def use_threads(self, n: int) -> None:
        """See `EvalHook`: the hook is lent as many threads as llama.cpp computes with."""
        self._block[Field.THREADS] = n if openmp.expose_to_numba() else 1

    def end(self, status: int) -> None:
        """See `EvalHook`: raises where the kernel found trouble or did not see every row."""
        entries = self._block[Field.ENTRIES]
        # The next decode is unsteered unless it is said again: no row inherits a neighbour's.
        self._block[Field.ENTRIES] = 0
        self.wait()
        self._learn_devices()
        self._raise_trouble(Trouble(int(self._block[Field.ERROR])))
        if entries and status == 0:
            seen = int(self._block[Field.NEXT_ROW]), int(self._block[Field.NEXT_OUTPUT])
            given = int(self._block[Field.N_ROWS]), int(self._block[Field.N_OUTPUTS])
            if self._n_layer == 1:
                seen, given = seen[1:], given[1:]  # type: ignore[assignment]
            if seen != given:
                raise EngineError(f"the graph showed (rows, outputs) {seen}, the batch had {given}")

        if self._device is not None and self._arrays[Field.RAN].any():
            note(self._block, self._arrays, self._device.told(), self._observed)

    def wait(self) -> None:
        """Wait for what llama.cpp's backends were given to compute beside its own graph."""
        given = self._arrays[Field.GIVEN]
        if given.any():
            for backend in np.unique(given[given != 0]).tolist():
                ggml.library().ggml_backend_synchronize(backend)
            given[:] = 0

    def _learn_devices(self) -> None:
        """Ask the buffers that the callback met, while they still exist, for their devices."""
        met = self._arrays[Field.MET]
        if self._device is None or not met.any():
            return
        for layer in np.flatnonzero(met).tolist():
            buffer = int(met[layer])
            device = device_of(buffer)
            # A device's buffer that names no device leaves nothing to compute on.
            if device or ggml.library().ggml_backend_buffer_is_host(buffer):
                self._device.learn(layer, device)
        met[:] = 0
        self._planned = None

    @property
    def traffic(self) -> tuple[int, int]:
        """Stops of the last batch's graph, and bytes copied between device and host in them."""
        return int(self._block[Field.STOPS]), int(self._block[Field.COPIED])

    @property
    def waits(self) -> int:
        """Graphs of the last batch that were waited for one by one, on a backend of our own."""
        return int(self._block[Field.WAITS])

    @property
    def device(self) -> DeviceSteering | None:
        """What steers in the memory of devices; None where rows are always copied."""
        return self._device

    def take_report(self) -> StepReport:
        """What the last decode has to say of its rows; a second call has nothing."""
        block = self._block
        if not (block[Field.N_CAPPED] or block[Field.N_FAULTS] or self._observed):
            return NOTHING_TO_REPORT
        capped, layers = self._arrays[Field.CAPPED], self._arrays[Field.FAULT_LAYER]
        slots = self._arrays[Field.FAULT_SLOT]
        names = {r.slot: r.name for r in self._residents.values()}
        report = StepReport(
            faults={
                int(row): Fault(int(layers[row]), names.get(int(slots[row]), "unknown"))
                for row in np.flatnonzero(layers >= 0)
            },
            doses=self._arrays[Field.DOSE].copy() if self._observed else None,
            capped={int(row): int(capped[row]) for row in np.flatnonzero(capped)},
        )
        capped[:] = 0
        layers[:] = -1
        block[Field.N_CAPPED] = block[Field.N_FAULTS] = 0
        self._observe(None)
        return report

    @staticmethod
    def _raise_trouble(trouble: Trouble) -> None:
        if trouble:
            raise EngineError(f"steering failed: {_TROUBLE[trouble]}")

    # --- details ----------------------------------------------------------------------------

    def _index(self, rows: Sequence[Steering]) -> None:
        """Lay out what acts on which row as the kernel reads it."""
        known: dict[int, list[tuple[int, float]]] = {}
        row_start, entry_row, entries = [0], [], []
        self._acting, self._planned = [], None
        for row, steering in enumerate(rows):
            own: list[tuple[int, float]] | None = []
            if steering:
                own = known.get(id(steering))
                if own is None:
                    own = [self._entry(dose.cartridge, dose.alpha) for dose in effective(steering)]
                    known[id(steering)] = own
                entries.extend(own)
                entry_row.extend([row] * len(own))
            self._acting.append(own or [])
            row_start.append(len(entries))
        slots = np.array([slot for slot, _ in entries], np.int32)
        order = np.argsort(slots, kind="stable").astype(np.int32)
        begins = np.flatnonzero(np.diff(slots[order], prepend=-1))
        run_start = np.append(begins, len(entries)).astype(np.int32)
        self._block[Field.N_RUNS] = len(begins)
        self._place(
            {
                Field.ROW_START: np.array(row_start, np.int32),
                Field.ENTRY_ROW: np.array(entry_row, np.int32),
                Field.ENTRY_SLOT: slots,
                Field.ENTRY_ALPHA: np.array([alpha for _, alpha in entries], np.float32),
                Field.ORDER: order,
                Field.RUN_START: run_start,
                Field.LIVE_START: np.zeros_like(run_start),
                Field.LIVE_ENTRY: np.zeros_like(order),
                Field.LIVE_ROW: np.zeros(len(entries), np.int64),
            }
        )
        table = self._arrays[Field.TABLE][np.unique(slots)]
        active, ranks = table[..., TableField.K], table[..., TableField.RANK]
        self._arrays[Field.NEEDED][:] = active.any(axis=0)
        whole, factors = -(-active // ROWS), -(-ranks // ROWS)
        self._block[Field.MOST_TILES] = np.where(ranks, factors, whole).max(initial=0)
        stride = int((whole + factors).max(initial=0)) * ROWS
        self._block[Field.SCRATCH_STRIDE] = stride
        if stride * len(entries) > self._arrays[Field.SCRATCH].size:
            self._point(Field.SCRATCH, np.zeros(stride * len(entries), np.float32))

    def _observe(self, observed: Sequence[bool] | None) -> None:
        if observed is None and self._observed is None:
            return
        self._observed = None if observed is None else list(observed)
        if self._observed is None:
            self._block[Field.OBSERVED] = 0
        else:
            self._point(Field.OBSERVED, np.array(self._observed, np.uint8))
            dose = np.full((len(self._observed), self._n_layer), np.nan, np.float32)
            self._point(Field.DOSE, dose)

    def _entry(self, cartridge: Cartridge, alpha: float) -> tuple[int, float]:
        resident = self._residents.get(cartridge.content_hash)
        if resident is None:
            raise EngineError(f"cartridge {cartridge.name!r} is not loaded")
        return resident.slot, check_alpha(alpha)

    def _place(self, arrays: dict[Field, NDArray[Any]]) -> None:
        for field, array in zip(arrays, side_by_side(list(arrays.values())), strict=True):
            self._point(field, array)

    def _point(self, field: Field, array: NDArray[Any]) -> NDArray[Any]:
        self._arrays[field] = array
        self._block[field] = array.ctypes.data
        return array


def _layer_arrays(layer_map: LayerMap) -> tuple[NDArray[Any], ...]:
    """Neurons, bias, Uᵀ and tiles as the kernel reads them.

    Uᵀ has no row where the matrix is held whole, and there are no tiles where none are to be made.
    """
    matrix = _tiled(layer_map)
    tiles = np.zeros(0, np.uint8)
    if matrix is not None and matrix.tiles is None:
        tiles = pack_tiles(*matrix.plain())
    left = np.zeros((0, len(layer_map.neurons)), np.float32)
    if isinstance(layer_map.delta, FactoredMatrix):
        left = layer_map.delta.left.T.astype(np.float32)
    return layer_map.neurons.astype(np.int32), layer_map.bias.astype(np.float32), left, tiles


def _tiled(layer_map: LayerMap) -> QuantizedMatrix | None:
    """The matrix whose tiles the kernel reads: W − E_S, or its right factor."""
    delta = layer_map.delta
    return delta.right if isinstance(delta, FactoredMatrix) else delta
