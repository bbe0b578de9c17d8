"""All graphs that one composition of rows needs, with their memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llamacart.hook.device.backend import Memory, library
from llamacart.hook.device.graph import F32, I32, WORD, Graphs
from llamacart.hook.device.residents import Constants
from llamacart.hook.device.step import RunShape, StepShape, homes_of, patches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llamacart.hook.device.backend import Device
    from llamacart.hook.device.composition import Composition
    from llamacart.hook.device.residents import DeviceCartridge, DeviceLayer
    from llamacart.hook.device.step import Step, StepCache


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
        self.shared = composition.shared
        self._constants = Constants(device, 2 * len(composition.runs) + 1)
        add = self._constants.add
        indices = [
            add(I32, len(run.rows), 1, np.array(run.rows, np.int32)) for run in composition.runs
        ]
        zeros = None
        if limited and self.shared:
            values = np.zeros(composition.n_rows, np.float32)
            zeros = add(F32, 1, composition.n_rows, values)
        self._first_alpha = len(indices) + (zeros is not None)
        self._lengths = [len(run.rows) for run in composition.runs]
        alphas = [add(F32, 1, n, np.zeros(n, np.float32)) for n in self._lengths]
        self._constants.place()
        place_of = self._constants.place_of
        self.zeros = None if zeros is None else place_of(zeros)
        self.places = [
            (place_of(index), place_of(alpha)) for index, alpha in zip(indices, alphas, strict=True)
        ]
        """Of indices and α of each run."""
        self.shapes = [
            (len(run.rows), run.rows[0] if _follow(run.rows) else None) for run in composition.runs
        ]
        """T and first row of each run."""
        self._known: NDArray[np.float32] | None = None

    def set_alphas(self, alphas: NDArray[np.float32]) -> None:
        """Copy α of every entry, run after run, to the device where they are others than before."""
        if self._known is not None and np.array_equal(alphas, self._known):
            return
        parts = np.split(alphas, np.cumsum(self._lengths[:-1]))
        self._constants.replace(self._first_alpha, parts)
        self._known = alphas.copy()

    @property
    def n_bytes(self) -> int:
        return self._constants.n_bytes

    def close(self) -> None:
        self._constants.close()


@dataclass(frozen=True)
class _Part:
    """A step of a layer's graph.

    Attributes:
        step: Its nodes.
        first: The row of the layer's tensor that the step takes for the first.
        acting: Runs of the composition, and what their cartridges have at the layer.
    """

    step: Step
    first: int
    acting: Sequence[tuple[int, DeviceLayer]]


def _parts(
    inputs: _Inputs, acting: Sequence[tuple[int, DeviceLayer]], steps: StepCache
) -> list[_Part]:
    """Steps for a layer: one for each run, or one for all where runs have rows in common."""
    n_rows = inputs.composition.n_rows
    if inputs.shared:
        runs = tuple(RunShape(held.shape, *inputs.shapes[i]) for i, held in acting)
        return [_Part(steps.get(StepShape(n_rows, runs, shared=True), 0), 0, acting)]
    parts = []
    known: Counter[StepShape] = Counter()
    for i, held in acting:
        n, first = inputs.shapes[i]
        lone = first is not None  # it then looks at its own rows only
        run = RunShape(held.shape, n, 0 if lone else None)
        shape = StepShape(n if lone else n_rows, (run,), shared=False)
        parts.append(_Part(steps.get(shape, known[shape]), first or 0, [(i, held)]))
        known[shape] += 1
    return parts


def _follow(rows: Sequence[int]) -> bool:
    return rows[-1] - rows[0] + 1 == len(rows)


class Plan:
    """The graphs of some layers for one batch.

    Args:
        device: What holds the layers.
        width: D.
        compositions: Of each layer; the last layer holds rows with outputs only.
        cartridges: By slot.
        steps: Nodes that were made before.
        limited: Whether there is a dose limit.

    Raises:
        EngineError: The device has no room, or lacks an operation.
    """

    def __init__(
        self,
        device: Device,
        width: int,
        compositions: Mapping[int, Composition],
        cartridges: Mapping[int, DeviceCartridge],
        steps: StepCache,
        *,
        limited: bool,
    ) -> None:
        self._device, self._width, self._limited = device, width, limited
        self._scratch: Memory | None = None
        self._statistics: Memory | None = None
        self._graphs: Graphs | None = None
        self._whole = 0
        self.graphs: dict[int, int] = {}
        """A `ggml_cgraph *` of each layer at which something acts."""
        self.patches: dict[int, NDArray[np.int64]] = {}
        self._inputs: dict[Composition, _Inputs] = {}
        self.compositions = dict(compositions)
        try:
            self._build(cartridges, steps)
        except BaseException:
            self.close()
            raise

    def _build(self, cartridges: Mapping[int, DeviceCartridge], steps: StepCache) -> None:
        device = self._device
        parts: dict[int, list[_Part]] = {}
        for layer, composition in self.compositions.items():
            held = [cartridges[run.slot].layers.get(layer) for run in composition.runs]
            acting = [(i, own) for i, own in enumerate(held) if own is not None]
            if acting:
                parts[layer] = _parts(self._inputs_of(composition), acting, steps)
        # Keeps the nodes alive that the graphs point to.
        self._steps = [part.step for own in parts.values() for part in own]
        statistics = Memory(device, sum(step.n_bytes for step in self._steps))
        self._statistics = statistics
        # One step is over when the next begins, so that all may use the same scratch memory.
        scratch = Memory(device, max((s.nodes.scratch_size for s in self._steps), default=0))
        self._scratch = scratch
        sizes = [sum(part.step.size for part in own) for own in parts.values()]
        self._graphs = Graphs(sizes)
        if not parts:
            return
        self._whole = self._graphs.whole(statistics)
        start = 0
        starts: list[int] = []
        stride = self._width * WORD
        for graph, (layer, own) in zip(self._graphs.handles, parts.items(), strict=True):
            inputs = self._inputs[self.compositions[layer]]
            homes = []
            for part in own:
                place = statistics.base + start, statistics.handle
                tensor = part.first * stride, 0
                scratch_place = scratch.base, scratch.handle
                runs = [(layer_held.places, *inputs.places[i]) for i, layer_held in part.acting]
                homes.append(homes_of(scratch_place, tensor, place, inputs.zeros, runs))
                self._graphs.add(graph, part.step.nodes)
                starts.append(start // WORD)
                start += part.step.n_bytes
            self.graphs[layer] = graph
            self.patches[layer] = patches([part.step for part in own], homes)
        self._index(parts, starts)

    def _index(self, parts: Mapping[int, Sequence[_Part]], starts: Sequence[int]) -> None:
        """Note of which layer, row and cartridge each of the statistics is."""
        layers: list[int] = []
        rows: list[int] = []
        slots: list[int] = []
        for layer, own in parts.items():
            runs = self.compositions[layer].runs
            for part in own:
                for i, _ in part.acting:
                    n = len(runs[i].rows)
                    layers += [layer] * n
                    rows += runs[i].rows
                    slots += [runs[i].slot] * n
        self._layer, self._row, self._slot = map(np.array, (layers, rows, slots))
        at = list(zip(self._steps, starts, strict=True))
        self._moved_at = np.concatenate([step.moved + start for step, start in at])
        self._size_at = np.concatenate([step.moved_size + start for step, start in at])

    def _inputs_of(self, composition: Composition) -> _Inputs:
        inputs = self._inputs.get(composition)
        if inputs is None:
            inputs = _Inputs(self._device, composition, limited=self._limited)
            self._inputs[composition] = inputs
        return inputs

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
        self.graphs, self._steps = {}, []
        if self._graphs is not None:
            self._graphs.close()
            self._graphs = None
        for inputs in self._inputs.values():
            inputs.close()
        self._inputs = {}
        for memory in (self._scratch, self._statistics):
            if memory is not None:
                memory.close()
        self._scratch = self._statistics = None
