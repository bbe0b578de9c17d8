"""Nodes of a layer's step, made once for all layers, cartridges and batches that need the like."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llamacart.errors import EngineError
from llamacart.hook.device.graph import F32, I32, WORD, Nodes
from llamacart.hook.device.layer_step import LayerRun, LayerStep, Limit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart.hook.device.backend import Device
    from llamacart.hook.device.residents import LayerShape

Place = tuple[int, int]
"""Address and buffer of a home. Buffer 0 stands for the layer's tensor, in which the address is an
offset."""

_NODES_A_RUN = 48
_NODES_BESIDE = 16
_KEPT = 2048  # steps of some kilobytes


class RunShape(NamedTuple):
    """Rows of a tensor on which one cartridge acts.

    Attributes:
        layer: What the cartridge has at the layer.
        n_rows: T.
        first: The first row, where the rows follow each other; else None.
    """

    layer: LayerShape
    n_rows: int
    first: int | None


class StepShape(NamedTuple):
    """What steps have in common that the same nodes can compute.

    Attributes:
        n_rows: Rows of the tensor, those before the first row of a lone run left out.
        runs: In the order in which they write.
        shared: Whether some row is in two of them.
    """

    n_rows: int
    runs: tuple[RunShape, ...]
    shared: bool


class Step:
    """Nodes of a step.

    Args:
        device: What computes them.
        width: D.
        shape: Of the step.
        limit: The dose limit, or None.

    Raises:
        EngineError: The device lacks an operation.
    """

    def __init__(self, device: Device, width: int, shape: StepShape, limit: float | None) -> None:
        self.size = _NODES_A_RUN * len(shape.runs) + _NODES_BESIDE
        """Most nodes and leaves."""
        self._lay_out(device, [run.n_rows for run in shape.runs])
        nodes = self.nodes = Nodes(device, self.size)
        step = LayerStep(nodes, width, shape.n_rows)
        zeros = None
        if limit is not None and shape.shared:
            zeros = nodes.patched(F32, 1, shape.n_rows)
        runs = [
            LayerRun(
                layer=run.layer.stand_ins(nodes, width),
                first=run.first,
                n_rows=run.n_rows,
                indices=nodes.patched(I32, run.n_rows, 1),
                alpha=nodes.patched(F32, 1, run.n_rows),
                statistics=places,
            )
            for run, places in zip(shape.runs, self._places, strict=True)
        ]
        bound = None if limit is None else Limit(limit, zeros)
        step.build(runs, shared=shape.shared, limit=bound)
        if nodes.unsupported is not None:
            raise EngineError(f"device {device.name} does not compute {nodes.unsupported!r}")
        self.handles = np.array([patch.handle for patch in nodes.patches], np.int64)
        """Tensors that are to be patched [P]."""
        self.homes = np.array([patch.home for patch in nodes.patches], np.int64)
        """Number of the home of each, in the order of `homes_of`."""
        self.offsets = np.array([patch.offset for patch in nodes.patches], np.int64)
        """Bytes from its home's start."""

    def _lay_out(self, device: Device, n_rows: Sequence[int]) -> None:
        """Give ‖Δ‖² and ‖h_S‖² of each run their places in the step's statistics."""
        self._places: list[tuple[int, int]] = []
        self.n_bytes = 0
        """Of the statistics."""
        moved: list[int] = []
        size: list[int] = []
        for n in n_rows:
            space = -(-n * WORD // device.alignment) * device.alignment
            self._places.append((self.n_bytes, self.n_bytes + space))
            first = self.n_bytes // WORD
            moved += range(first, first + n)
            size += range(first + space // WORD, first + space // WORD + n)
            self.n_bytes += 2 * space
        self.moved, self.moved_size = np.array(moved), np.array(size)
        """Where ‖Δ‖² and ‖h_S‖² of each row of each run lie, in words."""


def homes_of(
    scratch: Place,
    tensor: Place,
    statistics: Place,
    zeros: Place | None,
    runs: Sequence[tuple[Sequence[Place], Place, Place]],
) -> list[Place]:
    """The places of a step's homes, in the order in which `Step` makes them.

    Args:
        scratch: Memory that nobody else uses while the step is computed.
        tensor: The layer's tensor, from a lone run's first row on.
        statistics: Of the step.
        zeros: See `Limit`.
        runs: For each, the places of what its cartridge has at the layer, indices, and α.
    """
    homes = [scratch, tensor, statistics]
    if zeros is not None:
        homes.append(zeros)
    for held, indices, alpha in runs:
        homes += held
        homes += (indices, alpha)
    return homes


class StepCache:
    """Steps that a device has had to compute; those used least recently are forgotten.

    Args:
        device: The device.
        width: D.
        limit: The dose limit, or None.
    """

    def __init__(self, device: Device, width: int, limit: float | None) -> None:
        self._device, self._width, self._limit = device, width, limit
        self._steps: OrderedDict[tuple[StepShape, int], Step] = OrderedDict()

    def get(self, shape: StepShape, number: int) -> Step:
        """A step that no other of the same graph may use.

        Args:
            shape: What is to be computed.
            number: How many of this shape the graph has already.

        Raises:
            EngineError: The device lacks an operation.
        """
        step = self._steps.get((shape, number))
        if step is None:
            step = self._steps[shape, number] = Step(self._device, self._width, shape, self._limit)
            while len(self._steps) > _KEPT:  # plans keep what they use
                self._steps.popitem(last=False)
        self._steps.move_to_end((shape, number))
        return step


def patches(steps: Sequence[Step], homes: Sequence[Sequence[Place]]) -> NDArray[np.int64]:
    """What the compiled callback is to patch before it computes steps: see `PlanField.PATCHES`."""
    starts = np.cumsum([0] + [len(own) for own in homes[:-1]]).tolist()
    number = np.concatenate([step.homes + start for step, start in zip(steps, starts, strict=True)])
    at = np.array([place for own in homes for place in own], np.int64)[number]
    found = np.empty((len(number), 3), np.int64)
    found[:, 0] = np.concatenate([step.handles for step in steps])
    found[:, 1] = at[:, 0] + np.concatenate([step.offsets for step in steps])
    found[:, 2] = at[:, 1]
    return found
