"""Cartridges in the memory of a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llamacart.hook.device.backend import Memory, library
from llamacart.hook.device.graph import F32, FIXED, I32, Q8_0, WORD, Node
from llamacart.llama import ggml
from llamacart.matrix import BLOCK, FactoredMatrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart.cartridge import Cartridge, LayerMap
    from llamacart.hook.device.backend import Device
    from llamacart.hook.device.graph import Nodes
    from llamacart.matrix import QuantizedMatrix

FEW = 16
"""Rows for which a layer's neurons are listed once each; more rows go another way."""


class Constants:
    """Tensors of one lifetime in a block of a device's memory.

    They go there together: a device takes longer to be spoken to than to copy some kilobytes.

    Args:
        device: Where.
        capacity: Most tensors.
    """

    def __init__(self, device: Device, capacity: int) -> None:
        lib = library()
        self._device = device
        size = (capacity + 2) * lib.ggml_tensor_overhead()
        self._context = lib.ggml_init(ggml.InitParams(size, None, True))
        self._handles: list[int] = []
        self._values: list[NDArray[Any]] = []
        self._starts: list[int] = []
        self._whole = 0
        self.memory: Memory | None = None

    def add(self, kind: int, width: int, n_rows: int, values: NDArray[Any]) -> Node:
        """A tensor [n_rows, width] with these values, which are copied at `place`."""
        handle = library().ggml_new_tensor_2d(self._context, kind, width, n_rows)
        self._handles.append(handle)
        self._values.append(values)
        return Node(handle, FIXED)

    def place(self) -> None:
        """Take the memory and copy all values there.

        Raises:
            EngineError: The device has no room.
        """
        lib, device = library(), self._device
        memory = Memory(device, self.n_bytes)
        self.memory = memory
        start = 0
        for handle in self._handles:
            lib.ggml_backend_tensor_alloc(memory.handle, handle, memory.base + start)
            self._starts.append(start)
            start += device.size_of(handle)
        if memory.size:
            self._whole = lib.ggml_new_tensor_1d(self._context, F32, memory.size // WORD)
            lib.ggml_backend_tensor_alloc(memory.handle, self._whole, memory.base)
            self.replace(0, self._values)
        self._values = []

    def replace(self, first: int, values: Sequence[NDArray[Any]]) -> None:
        """Give the tensors from number `first` on other values, all of them that follow."""
        begin = self._starts[first]
        image = np.zeros(self.n_bytes - begin, np.uint8)
        for start, own in zip(self._starts[first:], values, strict=True):
            plain = np.ascontiguousarray(own).reshape(-1).view(np.uint8)
            image[start - begin : start - begin + len(plain)] = plain
        library().ggml_backend_tensor_set(self._whole, image.ctypes.data, begin, image.nbytes)

    def place_of(self, node: Node) -> tuple[int, int]:
        """Address and buffer of a tensor, once it has its place."""
        buffer = 0 if self.memory is None else self.memory.handle
        return library().ggml_get_data(node.handle), buffer

    @property
    def n_bytes(self) -> int:
        """Memory that they take, or will take."""
        if self.memory is not None:
            return self.memory.size
        return sum(map(self._device.size_of, self._handles))

    def close(self) -> None:
        """Free tensors and memory."""
        if self.memory is not None:
            self.memory.close()
            self.memory = None
        if self._context:
            library().ggml_free(self._context)
            self._context = None


@dataclass(frozen=True)
class LayerNodes:
    """What a cartridge does at a layer, as tensors among nodes.

    Attributes:
        n_active: K.
        delta: W − E_S [K, D], or its right factor V [r, D]; None for a mean shift.
        left: The left factor U [K, r], where the matrix is held as U V.
        bias: b [1, K].
        neurons: S [1, K].
        repeated: S [`FEW`, K], the same in each row.
    """

    n_active: int
    delta: Node | None
    left: Node | None
    bias: Node
    neurons: Node
    repeated: Node


class LayerShape(NamedTuple):
    """What layers have in common that the same nodes can compute.

    Attributes:
        n_active: K.
        rank: r where the matrix is held as U V, 0 where it is held whole; None for a mean shift.
    """

    n_active: int
    rank: int | None

    def stand_ins(self, graph: Nodes, width: int) -> LayerNodes:
        """Tensors of such a layer, each in a home of its own, in the order of `DeviceLayer`."""
        k, rank = self.n_active, self.rank
        delta = None if rank is None else graph.patched(Q8_0, width, rank or k)
        left = graph.patched(F32, rank, k) if rank else None
        bias, neurons, repeated = (
            graph.patched(kind, k, n) for kind, n in ((F32, 1), (I32, 1), (I32, FEW))
        )
        return LayerNodes(k, delta, left, bias, neurons, repeated)


@dataclass(frozen=True)
class DeviceLayer:
    """What a cartridge does at a layer, in a device's memory.

    Attributes:
        shape: Of its tensors.
        places: Address and buffer of each: the matrix or its right factor, the left factor,
            if it has these; bias, neurons, and neurons repeated.
    """

    shape: LayerShape
    places: tuple[tuple[int, int], ...]


class DeviceCartridge:
    """A cartridge's layers on a device, once they are placed there.

    Args:
        device: Where.
        cartridge: It.
        layers: Those that the device computes.
    """

    def __init__(self, device: Device, cartridge: Cartridge, layers: Sequence[int]) -> None:
        own = [m for m in cartridge.layers if m.layer in layers]
        self._constants = Constants(device, 5 * len(own))
        self._nodes = {m.layer: (_shape(m), self._add(m)) for m in own}
        self.layers: dict[int, DeviceLayer] = {}
        """What it has there, once it is placed."""

    def place(self) -> None:
        """Copy it there.

        Raises:
            EngineError: The device has no room.
        """
        self._constants.place()
        self.layers = {
            layer: DeviceLayer(shape, self._places(nodes))
            for layer, (shape, nodes) in self._nodes.items()
        }

    def _add(self, layer_map: LayerMap) -> list[Node]:
        k_active = len(layer_map.neurons)
        neurons = layer_map.neurons.astype(np.int32)
        add, delta = self._constants.add, layer_map.delta
        matrix = delta.right if isinstance(delta, FactoredMatrix) else delta
        nodes = []
        if matrix is not None:
            nodes.append(add(Q8_0, *matrix.shape[::-1], q8_0_blocks(matrix)))
        if isinstance(delta, FactoredMatrix):
            nodes.append(add(F32, delta.rank, k_active, delta.left.astype(np.float32)))
        nodes.append(add(F32, k_active, 1, layer_map.bias.astype(np.float32)))
        nodes.append(add(I32, k_active, 1, neurons))
        nodes.append(add(I32, k_active, FEW, np.tile(neurons, FEW)))
        return nodes

    def _places(self, nodes: Sequence[Node]) -> tuple[tuple[int, int], ...]:
        return tuple(self._constants.place_of(node) for node in nodes)

    @property
    def n_bytes(self) -> int:
        """Memory that it takes on the device, or will take."""
        return self._constants.n_bytes

    def close(self) -> None:
        """Free its memory."""
        self._constants.close()


def _shape(layer_map: LayerMap) -> LayerShape:
    delta = layer_map.delta
    rank = None if delta is None else delta.rank if isinstance(delta, FactoredMatrix) else 0
    return LayerShape(len(layer_map.neurons), rank)


def q8_0_blocks(matrix: QuantizedMatrix) -> NDArray[np.uint8]:
    """A matrix [K, D] in ggml's Q8_0: of each 32 columns a 16-bit scale, then 32 bytes."""
    values, scales = matrix.plain()
    blocks = np.empty(scales.shape, np.dtype([("scale", "<f2"), ("values", "i1", (BLOCK,))]))
    blocks["scale"] = scales
    blocks["values"] = values.reshape(*scales.shape, BLOCK)
    return blocks.view(np.uint8)
