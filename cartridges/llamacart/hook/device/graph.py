"""Builds ggml nodes over tensors whose places are known only when they are computed."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacart.hook.device.backend import function, library
from llamacart.llama import ggml

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart.hook.device.backend import Device, Memory

F32, Q8_0, I32 = 0, 8, 26
"""Types of tensors, as `ggml_type` numbers them."""

WORD = 4
"""Bytes of a float and of an index."""


FIXED = -1
"""Home of tensors whose data stays where it is."""


@dataclass(frozen=True)
class Node:
    """A tensor.

    Attributes:
        handle: The `ggml_tensor *`.
        home: Where its data lies: `FIXED`, or the number of a home that moves.
        offset: Bytes from the start of a home that moves.
    """

    handle: int
    home: int
    offset: int = 0


@dataclass(frozen=True)
class Patch:
    """A tensor whose place is to be said before it is computed.

    Attributes:
        handle: The `ggml_tensor *`.
        home: Number of the home that it lies in.
        offset: Bytes from the home's start.
    """

    handle: int
    home: int
    offset: int


class Nodes:
    """Nodes that a device computes one after the other, as part of one graph or another.

    All that they read and write lies in homes that move, so that the same nodes serve in several
    places; `patches` lists the tensors there. The first home is scratch memory.

    Args:
        device: What computes them.
        size: Most nodes and leaves.
    """

    def __init__(self, device: Device, size: int) -> None:
        lib = library()
        self._device = device
        # A tensor for each node and leaf, and the views beside.
        bytes_needed = 2 * size * lib.ggml_tensor_overhead()
        self._context = lib.ggml_init(ggml.InitParams(bytes_needed, None, True))
        weakref.finalize(self, lib.ggml_free, self._context)
        self.patches: list[Patch] = []
        self.n_homes = 0
        """Homes that move, numbered from 0."""
        self._scratch = self.home()
        self.scratch_size = 0
        """Bytes of scratch memory."""
        self.sinks: list[int] = []
        """Nodes that no other reads. Computed in this order, each after what it reads, they come
        to the same as all nodes in the order in which they were made."""
        self.unsupported: str | None = None
        """Name of the first operation that the device does not compute."""

    def home(self) -> int:
        """A new home that moves."""
        self.n_homes += 1
        return self.n_homes - 1

    def patched(self, kind: int, width: int, n_rows: int) -> Node:
        """A tensor [n_rows, width] at the start of a new home that moves."""
        handle = library().ggml_new_tensor_2d(self._context, kind, width, n_rows)
        home = self.home()
        self.patches.append(Patch(handle, home, 0))
        return Node(handle, home)

    def view(self, node: Node, name: str, *numbers: int, offset: int = 0) -> Node:
        """A view of a node: `view_2d`, `view_3d`, `reshape_2d`, `reshape_3d` or `transpose`.

        Args:
            node: What is looked at.
            name: ggml's name.
            numbers: Its shape and strides.
            offset: Bytes from the node's start; for `view_…` only.
        """
        more = (*numbers, offset) if name.startswith("view") else numbers
        return self._place_view(function(name)(self._context, node.handle, *more), node, offset)

    def compute(self, name: str, *operands: Node | float) -> Node:
        """A node with memory of its own in the scratch."""
        handle = self._make(name, operands)
        offset = self.scratch_size
        self.patches.append(Patch(handle, self._scratch, offset))
        self.scratch_size += self._device.size_of(handle)
        return Node(handle, self._scratch, offset)

    def compute_into(self, home: int, offset: int, name: str, *operands: Node | float) -> Node:
        """A node whose result lies in a home that moves, for others to look at."""
        handle = self._make(name, operands)
        self.sinks.append(handle)
        self.patches.append(Patch(handle, home, offset))
        return Node(handle, home, offset)

    def write(self, name: str, target: Node, *operands: Node) -> Node:
        """`set_rows` (target, rows, indices) or `cpy` (target, values): the target, written to."""
        order = (target, *operands) if name == "set_rows" else (*operands, target)
        handle = function(name)(self._context, *(node.handle for node in order))
        made = self._place_view(handle, target, 0)
        self._check(handle, name)
        self.sinks.append(handle)
        return made

    def _make(self, name: str, operands: tuple[Node | float, ...]) -> int:
        plain = [o.handle if isinstance(o, Node) else o for o in operands]
        handle = function(name)(self._context, *plain)
        self._check(handle, name)
        return handle

    def _place_view(self, handle: int, source: Node, offset: int) -> Node:
        self.patches.append(Patch(handle, source.home, source.offset + offset))
        return Node(handle, source.home, source.offset + offset)

    def _check(self, handle: int, name: str) -> None:
        if self.unsupported is None and not self._device.supports(name, handle):
            self.unsupported = name


class Graphs:
    """Some graphs of nodes, in the order in which they are to be computed.

    Args:
        sizes: Most nodes and leaves of each.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        lib = library()
        bytes_needed = sum(lib.ggml_graph_overhead_custom(size, False) for size in sizes)
        bytes_needed += lib.ggml_tensor_overhead()
        self._context = lib.ggml_init(ggml.InitParams(bytes_needed, None, True))
        self.handles = [lib.ggml_new_graph_custom(self._context, size, False) for size in sizes]
        """A `ggml_cgraph *` of each."""
        self._expand = function("build_forward_expand")

    def add(self, graph: int, nodes: Nodes) -> None:
        """Let a graph compute these after those that it has."""
        for sink in nodes.sinks:
            self._expand(graph, sink)

    def whole(self, memory: Memory) -> int:
        """A tensor of floats that is all of some memory, to read it by."""
        lib = library()
        handle = int(lib.ggml_new_tensor_1d(self._context, F32, memory.size // WORD))
        lib.ggml_backend_tensor_alloc(memory.handle, handle, memory.base)
        return handle

    def close(self) -> None:
        """Free them; nodes and memory are their owners'."""
        if self._context:
            library().ggml_free(self._context)
            self._context = None
