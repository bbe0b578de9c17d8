"""All graphs that one composition of rows needs, with their memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import EngineError
from llamacart.hook.device.backend import Memory, library
from llamacart.hook.device.graph import F32, I32, WORD, Graph
from llamacart.hook.device.layer_step import LayerRun, LayerStep, Limit
from llamacart.hook.device.residents import Constants

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llamacart.hook.device.backend import Device
    from llamacart.hook.device.graph import Node
    from llamacart.hook.device.residents import DeviceCartridge, LayerShape

_NODES_A_RUN = 48
_NODES_BESIDE = 16


@dataclass(frozen=True)
class Run:
    """Rows of a tensor on which one cartridge acts.

    Attributes:
        slot: The cartridge's, as the kernel's table has it.
        rows: Ascending rows of the tensor.
    """

    slot: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Composition:
    """What acts on which row of a tensor; α is not part of it.

    Attributes:
        n_rows: Rows of the tensor.
        runs: In the order in which they write.
    """

    n_rows: int
    runs: tuple[Run, ...]

    @property
    def n_entries(self) -> int:
        """Rows of all runs."""
        return sum(len(run.rows) for run in self.runs)

    @property
    def shared(self) -> bool:
        """Whether some row is in two runs."""
        return len({row for run in self.runs for row in run.rows}) < self.n_entries


@dataclass(frozen=True)
class Told:
    """What graphs did, for each row of a layer's tensor and each cartridge that acts on it.

    Attributes:
        layer: The layer, int64 [N].
        row: The row of the tensor, int64 [N].
        slot: The cartridge's, int64 [N].
        moved: ‖Δ‖², before the dose limit, float64 [N].
        size: ‖h_S‖², float64 [N].
    """

    layer: NDArray[np.int64]
    row: NDArray[np.int64]
    slot: NDArray[np.int64]
    moved: NDArray[np.float64]
    size: NDArray[np.float64]

    def at(self, which: NDArray[np.bool_]) -> Told:
        """What is told of some [N]."""
        if which.all():
            return self
        layer, row, slot = (part[which] for part in (self.layer, self.row, self.slot))
        return Told(layer, row, slot, self.moved[which], self.size[which])


class _Inputs:
    """α and indices of a composition on the device, the same for all layers that have it."""

    def __init__(self, device: Device, composition: Composition, *, limited: bool) -> None:
        self.composition = composition
        self._constants = Constants(device, 2 * len(composition.runs) + 1)
        add = self._constants.add
        self.indices: list[Node] = []
        self.alphas: list[Node] = []
        for run in composition.runs:
            n = len(run.rows)
            self.indices.append(add(I32, n, 1, np.array(run.rows, np.int32)))
            self.alphas.append(add(F32, 1, n, np.zeros(n, np.float32)))
        self.zeros = None
        if limited and composition.shared:
            zeros = np.zeros(composition.n_rows, np.float32)
            self.zeros = add(F32, 1, composition.n_rows, zeros)
        self._constants.place()
        self._known: NDArray[np.float32] | None = None

    def set_alphas(self, alphas: NDArray[np.float32]) -> None:
        """Copy α of every entry, run after run, to the device where they are others than before."""
        if self._known is not None and np.array_equal(alphas, self._known):
            return
        start = 0
        for node, run in zip(self.alphas, self.composition.runs, strict=True):
            own = np.ascontiguousarray(alphas[start : start + len(run.rows)])
            library().ggml_backend_tensor_set(node.handle, own.ctypes.data, 0, own.nbytes)
            start += len(run.rows)
        self._known = alphas.copy()

    @property
    def n_bytes(self) -> int:
        return self._constants.n_bytes

    def close(self) -> None:
        self._constants.close()


class _Step:
    """A graph, which all layers share that are alike but for the places of their tensors.

    Args:
        device: What holds them.
        width: D.
        inputs: Of the composition of their rows.
        acting: Runs of the composition that act there, and what these cartridges have there.
        limit: The dose limit, or None.

    Raises:
        EngineError: The device lacks an operation.
    """

    def __init__(
        self,
        device: Device,
        width: int,
        inputs: _Inputs,
        acting: Sequence[tuple[int, LayerShape]],
        limit: float | None,
    ) -> None:
        composition = inputs.composition
        own = [composition.runs[i] for i, _ in acting]
        self.row = np.array([row for run in own for row in run.rows], np.int64)
        self.slot = np.repeat([run.slot for run in own], [len(run.rows) for run in own])
        self._lay_out(device, own)
        self.graph = Graph(device, _NODES_A_RUN * len(acting) + _NODES_BESIDE)
        step = LayerStep(self.graph, width, composition.n_rows)
        runs = []
        for run, (i, shape), places in zip(own, acting, self._places, strict=True):
            follows = run.rows[-1] - run.rows[0] + 1 == len(run.rows)
            runs.append(
                LayerRun(
                    shape.stand_ins(self.graph, width),
                    run.rows[0] if follows else None,
                    len(run.rows),
                    inputs.indices[i],
                    inputs.alphas[i],
                    places,
                )
            )
        bound = None if limit is None else Limit(limit, inputs.zeros)
        step.build(runs, shared=composition.shared, limit=bound)
        if self.graph.unsupported is not None:
            name = self.graph.unsupported
            self.graph.close()
            raise EngineError(f"device {device.name} does not compute {name!r}")
        patches = self.graph.patches
        self._handles = np.array([patch.handle for patch in patches], np.int64)
        self._homes = np.array([patch.home for patch in patches], np.int64)
        self._offsets = np.array([patch.offset for patch in patches], np.int64)

    def _lay_out(self, device: Device, runs: Sequence[Run]) -> None:
        """Give ‖Δ‖² and ‖h_S‖² of each run their places in a layer's statistics."""
        self._places: list[tuple[int, int]] = []
        self.n_bytes = 0
        """Of a layer's statistics."""
        moved: list[int] = []
        size: list[int] = []
        for run in runs:
            n = len(run.rows)
            space = -(-n * WORD // device.alignment) * device.alignment
            self._places.append((self.n_bytes, self.n_bytes + space))
            first = self.n_bytes // WORD
            moved += range(first, first + n)
            size += range(first + space // WORD, first + space // WORD + n)
            self.n_bytes += 2 * space
        self.moved, self.size = np.array(moved), np.array(size)

    def patches(self, homes: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the compiled callback is to patch, for homes [n, 2] by address and buffer."""
        at = homes[self._homes]
        return np.column_stack([self._handles, at[:, 0] + self._offsets, at[:, 1]])


class Plan:
    """The graphs of some layers for one batch.

    Args:
        device: What holds the layers.
        width: D.
        compositions: Of each layer; the last layer holds rows with outputs only.
        cartridges: By slot.
        limit: The dose limit, or None.

    Raises:
        EngineError: The device has no room, or lacks an operation.
    """

    def __init__(
        self,
        device: Device,
        width: int,
        compositions: Mapping[int, Composition],
        cartridges: Mapping[int, DeviceCartridge],
        limit: float | None,
    ) -> None:
        self._device, self._width, self._limit = device, width, limit
        self._scratch: Memory | None = None
        self._statistics: Memory | None = None
        self._reader: Graph | None = None
        self._whole = 0
        self.graphs: dict[int, Graph] = {}
        self.patches: dict[int, NDArray[np.int64]] = {}
        self._inputs: dict[Composition, _Inputs] = {}
        self._steps: dict[tuple[Composition, tuple[tuple[int, LayerShape], ...]], _Step] = {}
        self.compositions = dict(compositions)
        try:
            self._build(cartridges)
        except BaseException:
            self.close()
            raise

    def _build(self, cartridges: Mapping[int, DeviceCartridge]) -> None:
        device = self._device
        steps: dict[int, _Step] = {}
        places: dict[int, list[NDArray[np.int64]]] = {}
        for layer, composition in self.compositions.items():
            held = [cartridges[run.slot].layers.get(layer) for run in composition.runs]
            acting = tuple((i, own.shape) for i, own in enumerate(held) if own is not None)
            if acting:
                places[layer] = [own.places for own in held if own is not None]
                steps[layer] = self._step(composition, acting)
        starts = np.cumsum([0] + [step.n_bytes for step in steps.values()])
        statistics = self._statistics = Memory(device, int(starts[-1]))
        self._reader = Graph(device, 1)
        if not steps:
            return
        self._whole = self._reader.whole(statistics)
        graphs = [step.graph for step in self._steps.values()]
        self._scratch = Memory(device, max(graph.scratch_size for graph in graphs))
        for graph in graphs:
            graph.place(self._scratch)
        for (layer, step), start in zip(steps.items(), starts.tolist(), strict=False):
            # The order of homes is that of `LayerStep`: the layer's tensor, which the compiled
            # callback knows, its statistics, then what each cartridge has there.
            homes = [(0, 0), (statistics.base + start, statistics.handle)]
            self.patches[layer] = step.patches(np.concatenate([homes, *places[layer]]))
            self.graphs[layer] = step.graph
        self._layer = np.repeat(list(steps), [len(step.row) for step in steps.values()])
        self._row, self._slot = (
            np.concatenate([getattr(step, name) for step in steps.values()])
            for name in ("row", "slot")
        )
        at = list(zip(steps.values(), (starts // WORD).tolist(), strict=False))
        self._moved_at = np.concatenate([step.moved + start for step, start in at])
        self._size_at = np.concatenate([step.size + start for step, start in at])

    def _step(self, composition: Composition, acting: tuple[tuple[int, LayerShape], ...]) -> _Step:
        step = self._steps.get((composition, acting))
        if step is None:
            inputs = self._inputs.get(composition)
            if inputs is None:
                limited = self._limit is not None
                inputs = _Inputs(self._device, composition, limited=limited)
                self._inputs[composition] = inputs
            step = _Step(self._device, self._width, inputs, acting, self._limit)
            self._steps[composition, acting] = step
        return step

    def set_alphas(self, alphas: Mapping[Composition, NDArray[np.float32]]) -> None:
        """Tell the device α of every entry, run after run, for each composition."""
        for composition, inputs in self._inputs.items():
            inputs.set_alphas(alphas[composition])

    def told(self) -> Told | None:
        """What the last step did at all layers; None where nothing acts."""
        memory = self._statistics
        if memory is None or not self.graphs:
            return None
        read = np.empty(memory.size // WORD, np.float32)
        library().ggml_backend_tensor_get(self._whole, read.ctypes.data, 0, read.nbytes)
        # Memory of layers that have not run may hold any bits, those of signalling NaN too.
        with np.errstate(invalid="ignore"):
            moved, size = (read[at].astype(np.float64) for at in (self._moved_at, self._size_at))
        return Told(self._layer, self._row, self._slot, moved, size)

    @property
    def n_bytes(self) -> int:
        """Memory that it takes on the device."""
        own = sum(memory.size for memory in (self._scratch, self._statistics) if memory)
        return own + sum(inputs.n_bytes for inputs in self._inputs.values())

    def close(self) -> None:
        """Free graphs and memory."""
        for step in self._steps.values():
            step.graph.close()
        self._steps, self.graphs = {}, {}
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        for inputs in self._inputs.values():
            inputs.close()
        self._inputs = {}
        for memory in (self._scratch, self._statistics):
            if memory is not None:
                memory.close()
        self._scratch = self._statistics = None
