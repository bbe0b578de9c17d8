"""The steering hook: which cartridges are resident, and which act on which row of a batch."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np

from llamacart.cartridge import SITE, Cartridge, check_alpha
from llamacart.errors import CartridgeMismatchError, EngineError
from llamacart.kernel import TABLE_FIELDS, Field, Trouble, eval_callback, steer_rows
from llamacart.steering import UNSTEERED, Steering, effective

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart.cartridge import Fingerprint, LayerMap
    from llamacart.model import Model

_CONTROL_WORDS = 32
_TROUBLE = {
    Trouble.WIDTH: "the site's tensor is not float32 [rows, D]",
    Trouble.ROWS: "the graph holds more rows than the batch",
    Trouble.OUTPUTS: "the last layer holds more rows than the batch has outputs",
    Trouble.SCRATCH: "a scratch buffer is too small",
}


def check_fits(cartridge: Cartridge, fingerprint: Fingerprint, *, force: bool = False) -> None:
    """Raise `CartridgeMismatchError` unless `cartridge` was made for the model.

    Args:
        cartridge: A validated cartridge.
        fingerprint: The loaded model's.
        force: Accept other weights of the same architecture and shape; a difference in shape
            is never accepted.
    """
    made_for = cartridge.fingerprint
    facts = f"cartridge {cartridge.name!r} was made for ({made_for}); the model is ({fingerprint})"
    if cartridge.site != SITE:
        raise CartridgeMismatchError(f"{facts}; site {cartridge.site!r} is not {SITE!r}")
    if made_for.shape != fingerprint.shape:
        raise CartridgeMismatchError(f"{facts}; the shapes differ, so it cannot be used")
    if made_for.weights_hash != fingerprint.weights_hash and not force:
        raise CartridgeMismatchError(f"{facts}; the weights differ")


@dataclass(frozen=True)
class _Resident:
    """Arrays of a loaded cartridge, kept alive while the kernel holds their addresses."""

    cartridge: Cartridge
    slot: int
    arrays: tuple[NDArray[Any], ...]


class SteeringHook:
    """Steers the rows of each decode by the compiled callback.

    Usage: `load` cartridges, then before each decode `set_rows` with one `Steering` a row.
    Not thread-safe: one thread decodes and calls this.

    Args:
        model: The model whose contexts use this hook.
        max_rows: Most rows in one batch.
        copy: Go through `ggml_backend_tensor_get/set` as for a device even on the host.
        force: Accept cartridges made for other weights of the same shape.
    """

    def __init__(
        self, model: Model, *, max_rows: int, copy: bool = False, force: bool = False
    ) -> None:
        self._model = model
        self._force = force
        self._width, self._n_layer = model.n_ff, model.n_layer
        self._max_rows = max_rows
        self._residents: dict[str, _Resident] = {}
        self._table = np.zeros((0, self._n_layer, TABLE_FIELDS), np.int64)
        self._prefix = np.frombuffer(f"{model.site_node}-".encode(), np.uint8)
        self._row_group = np.zeros(max_rows, np.int32)
        self._needed = np.zeros(self._n_layer, np.uint8)
        self._output_rows = np.zeros(max_rows, np.int32)
        self._scratch = np.zeros(1, np.float32)
        self._group_start = np.zeros(1, np.int32)
        self._entry_slot = np.zeros(0, np.int32)
        self._entry_alpha = np.zeros(0, np.float32)
        device = copy or model.uses_device
        self._stage = np.zeros(max_rows * self._width if device else 1, np.float32)
        self._block = np.zeros(_CONTROL_WORDS, np.int64)
        self._n_rows_set = 0
        for field, value in (
            (Field.WIDTH, self._width),
            (Field.LAST_LAYER, self._n_layer - 1),
            (Field.DEVICE, int(device)),
            (Field.PREFIX_LENGTH, len(self._prefix)),
            (Field.STAGE_LENGTH, self._stage.size),
        ):
            self._block[field] = value
        self._point(Field.PREFIX, self._prefix)
        self._point(Field.ROW_GROUP, self._row_group)
        self._point(Field.NEEDED, self._needed)
        self._point(Field.OUTPUT_ROW, self._output_rows)
        self._point(Field.STAGE, self._stage)
        self.callback = ctypes.cast(
            eval_callback.address, llama_cpp.ggml_backend_sched_eval_callback
        )
        self.user_data = self._block.ctypes.data

    # --- residents --------------------------------------------------------------------------

    def load(self, cartridge: Cartridge) -> None:
        """Make a cartridge resident; a second load of equal content does nothing.

        Raises:
            CartridgeMismatchError: Made for another model; nothing has changed.
        """
        check_fits(cartridge, self._model.fingerprint, force=self._force)
        if cartridge.content_hash in self._residents:
            return
        used = {resident.slot for resident in self._residents.values()}
        slot = next(i for i in range(len(used) + 1) if i not in used)
        if slot >= len(self._table):
            grown = np.zeros((max(4, 2 * len(self._table)), *self._table.shape[1:]), np.int64)
            grown[: len(self._table)] = self._table
            self._table = grown
            self._point(Field.TABLE, self._table)
        self._table[slot] = 0
        arrays: list[NDArray[Any]] = []
        for layer_map in cartridge.layers:
            addresses, kept = _addresses(layer_map)
            self._table[slot, layer_map.layer] = (len(layer_map.neurons), *addresses)
            arrays.extend(kept)
        self._residents[cartridge.content_hash] = _Resident(cartridge, slot, tuple(arrays))

    def unload(self, cartridge: Cartridge) -> None:
        """Forget a resident cartridge and free its arrays; unknown ones are ignored."""
        resident = self._residents.pop(cartridge.content_hash, None)
        if resident is not None:
            self._table[resident.slot] = 0

    # --- batches ----------------------------------------------------------------------------

    def set_rows(self, rows: Sequence[Steering]) -> None:
        """Say what acts on each row of the next decode.

        Args:
            rows: One steering a batch row; every cartridge must be loaded.

        Raises:
            EngineError: Too many rows, or a cartridge that is not loaded.
            AlphaError: An α that is not finite or beyond ±10.
        """
        if len(rows) > self._max_rows:
            raise EngineError(f"{len(rows)} rows were given to a hook for {self._max_rows}")
        groups: dict[tuple[tuple[int, float], ...], int] = {(): 0}
        seen: dict[int, int] = {id(UNSTEERED): 0}
        for i, steering in enumerate(rows):
            group = seen.get(id(steering))
            if group is None:
                key = tuple(self._entry(dose.cartridge, dose.alpha) for dose in effective(steering))
                group = seen[id(steering)] = groups.setdefault(key, len(groups))
            self._row_group[i] = group
        self._n_rows_set = len(rows)
        entries = [entry for key in groups for entry in key]
        self._group_start = np.cumsum([0, *(len(key) for key in groups)]).astype(np.int32)
        self._entry_slot = np.array([slot for slot, _ in entries], np.int32)
        self._entry_alpha = np.array([alpha for _, alpha in entries], np.float32)
        active = self._table[self._entry_slot, :, 0]
        self._needed[:] = active.any(axis=0)
        self._reserve_scratch(groups)
        self._block[Field.ENTRIES] = len(entries)
        self._point(Field.GROUP_START, self._group_start)
        self._point(Field.ENTRY_SLOT, self._entry_slot)
        self._point(Field.ENTRY_ALPHA, self._entry_alpha)

    def apply(self, h: NDArray[np.float32], layer: int) -> None:
        """Steer h [T, D] in place as the callback would at `layer`, after `set_rows` with T rows.

        For tests and tools: it runs the compiled kernel without a model's graph.
        """
        self.begin(len(h), np.arange(len(h), dtype=np.int32))
        self._raise_trouble(Trouble(int(steer_rows(self._block, layer, 0, h))))

    def begin(self, n_rows: int, output_rows: NDArray[np.int32]) -> None:
        """See `EvalHook`: checks that rows were set for this batch."""
        if self._block[Field.ENTRIES] and self._n_rows_set != n_rows:
            raise EngineError(
                f"steering was set for {self._n_rows_set} rows, the batch has {n_rows}"
            )
        if n_rows > self._max_rows:
            raise EngineError(f"a batch of {n_rows} rows was given to a hook for {self._max_rows}")
        self._output_rows[: len(output_rows)] = output_rows
        self._block[Field.N_ROWS] = n_rows
        self._block[Field.N_OUTPUTS] = len(output_rows)
        self._block[[Field.ROW, Field.NEXT_ROW, Field.OUTPUT, Field.NEXT_OUTPUT]] = 0
        self._block[Field.ERROR] = Trouble.NONE

    def end(self, status: int) -> None:
        """See `EvalHook`: raises where the kernel found trouble or did not see every row."""
        entries = self._block[Field.ENTRIES]
        # The next decode is unsteered unless it is said again: no row inherits a neighbour's.
        self._block[Field.ENTRIES] = 0
        self._raise_trouble(Trouble(int(self._block[Field.ERROR])))
        if entries and status == 0:
            seen = int(self._block[Field.NEXT_ROW]), int(self._block[Field.NEXT_OUTPUT])
            given = int(self._block[Field.N_ROWS]), int(self._block[Field.N_OUTPUTS])
            if self._n_layer == 1:
                seen, given = seen[1:], given[1:]  # type: ignore[assignment]
            if seen != given:
                raise EngineError(f"the graph showed (rows, outputs) {seen}, the batch had {given}")

    @staticmethod
    def _raise_trouble(trouble: Trouble) -> None:
        if trouble:
            raise EngineError(f"steering failed: {_TROUBLE[trouble]}")

    # --- details ----------------------------------------------------------------------------

    def _entry(self, cartridge: Cartridge, alpha: float) -> tuple[int, float]:
        resident = self._residents.get(cartridge.content_hash)
        if resident is None:
            raise EngineError(f"cartridge {cartridge.name!r} is not loaded")
        return resident.slot, check_alpha(alpha)

    def _reserve_scratch(self, groups: dict[tuple[tuple[int, float], ...], int]) -> None:
        largest = max(
            (
                int(self._table[[s for s, _ in key], :, 0].sum(axis=0).max())
                for key in groups
                if key
            ),
            default=0,
        )
        if largest > self._scratch.size:
            self._scratch = np.zeros(largest, np.float32)
        self._point(Field.SCRATCH, self._scratch)
        self._block[Field.SCRATCH_LENGTH] = self._scratch.size

    def _point(self, field: Field, array: NDArray[Any]) -> None:
        self._block[field] = array.ctypes.data


def _addresses(layer_map: LayerMap) -> tuple[tuple[int, int, int, int], list[NDArray[Any]]]:
    """Addresses of neurons, values, scales and bias, and the arrays that own them."""
    neurons = np.ascontiguousarray(layer_map.neurons, np.int32)
    bias = np.ascontiguousarray(layer_map.bias, np.float32)
    if layer_map.delta is None:
        return (neurons.ctypes.data, 0, 0, bias.ctypes.data), [neurons, bias]
    values = np.ascontiguousarray(layer_map.delta.values, np.int8)
    scales = np.ascontiguousarray(layer_map.delta.scales, np.float32)
    return (
        (neurons.ctypes.data, values.ctypes.data, scales.ctypes.data, bias.ctypes.data),
        [neurons, bias, values, scales],
    )
