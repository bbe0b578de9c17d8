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
    from llamacart.hook.device.residents import DeviceCartridge

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
    """What a graph did to the rows of one run.

    Attributes:
        rows: Rows of the tensor, int64 [T].
        slot: The cartridge's.
        moved: ‖Δ‖² of each row, before the dose limit, float64 [T].
        size: ‖h_S‖² of each row, float64 [T].
    """

    rows: NDArray[np.int64]
    slot: int
    moved: NDArray[np.float64]
    size: NDArray[np.float64]


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

    def close(self) -> None:
        self._constants.close()


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
        self._offsets: dict[int, list[tuple[int, int]]] = {}
        self._acting: dict[int, list[int]] = {}
        self.compositions = dict(compositions)
        try:
            self._build(cartridges)
        except BaseException:
            self.close()
            raise

    def _build(self, cartridges: Mapping[int, DeviceCartridge]) -> None:
        device = self._device
        acting = {
            layer: [i for i, r in enumerate(c.runs) if layer in cartridges[r.slot].layers]
            for layer, c in self.compositions.items()
        }
        acting = self._acting = {layer: runs for layer, runs in acting.items() if runs}
        for layer in acting:
            composition = self.compositions[layer]
            if composition not in self._inputs:
                limited = self._limit is not None
                self._inputs[composition] = _Inputs(device, composition, limited=limited)
        size = 0
        for layer, runs in acting.items():
            self._offsets[layer] = []
            for i in runs:
                n = -(-len(self.compositions[layer].runs[i].rows) * WORD // device.alignment)
                step = n * device.alignment
                self._offsets[layer].append((size, size + step))
                size += 2 * step
        self._statistics = Memory(device, size)
        self._reader = Graph(device, 1)
        if size:
            self._whole = self._reader.whole(self._statistics)
        for layer, runs in acting.items():
            self.graphs[layer] = self._graph(layer, runs, cartridges, self._statistics)
        self._scratch = Memory(
            device, max((g.scratch_size for g in self.graphs.values()), default=0)
        )
        for layer, graph in self.graphs.items():
            graph.place(self._scratch)
            self.patches[layer] = np.array(graph.patches, np.int64)

    def _graph(
        self,
        layer: int,
        runs: Sequence[int],
        cartridges: Mapping[int, DeviceCartridge],
        statistics: Memory,
    ) -> Graph:
        composition = self.compositions[layer]
        inputs = self._inputs[composition]
        graph = Graph(self._device, _NODES_A_RUN * len(runs) + _NODES_BESIDE)
        step = LayerStep(graph, self._width, composition.n_rows, statistics)
        made = []
        for place, i in enumerate(runs):
            run = composition.runs[i]
            follows = run.rows[-1] - run.rows[0] + 1 == len(run.rows)
            made.append(
                LayerRun(
                    cartridges[run.slot].layers[layer],
                    run.rows[0] if follows else None,
                    len(run.rows),
                    inputs.indices[i],
                    inputs.alphas[i],
                    self._offsets[layer][place],
                )
            )
        limit = None if self._limit is None else Limit(self._limit, inputs.zeros)
        step.build(made, shared=composition.shared, limit=limit)
        if graph.unsupported is not None:
            name = graph.unsupported
            graph.close()
            raise EngineError(f"device {self._device.name} does not compute {name!r}")
        return graph

    def set_alphas(self, alphas: Mapping[Composition, NDArray[np.float32]]) -> None:
        """Tell the device α of every entry, run after run, for each composition."""
        for composition, inputs in self._inputs.items():
            inputs.set_alphas(alphas[composition])

    def told(self) -> dict[int, list[Told]]:
        """What the last step did at each layer."""
        memory = self._statistics
        if memory is None or not memory.size:
            return {}
        read = np.empty(memory.size // WORD, np.float32)
        library().ggml_backend_tensor_get(self._whole, read.ctypes.data, 0, read.nbytes)
        return {
            layer: [
                self._told(self.compositions[layer].runs[i], places, read)
                for i, places in zip(runs, self._offsets[layer], strict=True)
            ]
            for layer, runs in self._acting.items()
        }

    @staticmethod
    def _told(run: Run, places: tuple[int, int], read: NDArray[np.float32]) -> Told:
        rows = np.array(run.rows)
        moved, size = (
            read[at // WORD : at // WORD + len(rows)].astype(np.float64) for at in places
        )
        return Told(rows, run.slot, moved, size)

    @property
    def n_bytes(self) -> int:
        """Memory that its scratch takes on the device."""
        return self._scratch.size if self._scratch else 0

    def close(self) -> None:
        """Free graphs and memory."""
        for graph in self.graphs.values():
            graph.close()
        self.graphs = {}
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
