"""Builds one ggml graph over a tensor whose place is known only when it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacart.hook.device.backend import function, library
from llamacart.llama import ggml

if TYPE_CHECKING:
    from llamacart.hook.device.backend import Device, Memory

F32, Q8_0, I32 = 0, 8, 26
"""Types of tensors, as `ggml_type` numbers them."""

WORD = 4
"""Bytes of a float and of an index."""

_NODES = 64  # nodes and leaves that a graph has room for, to begin with


SCRATCH, FIXED = -1, -2
"""Homes of tensors whose data stays where it is: in scratch memory of the graph, or elsewhere."""


@dataclass(frozen=True)
class Node:
    """A tensor of a graph.

    Attributes:
        handle: The `ggml_tensor *`.
        home: Where its data lies: `SCRATCH`, `FIXED`, or the number of a home that moves.
        offset: Bytes from the start of a home that moves.
    """

    handle: int
    home: int
    offset: int = 0


@dataclass(frozen=True)
class Patch:
    """A tensor whose place is to be said before each run.

    Attributes:
        handle: The `ggml_tensor *`.
        home: Number of the home that it lies in.
        offset: Bytes from the home's start.
    """

    handle: int
    home: int
    offset: int


class Graph:
    """Tensors and nodes for one device.

    Nodes are computed in the order in which they were made. What several runs of a graph have in
    other places lies in homes that move: `patches` lists the tensors there.

    Args:
        device: What computes it.
        size: Most nodes and leaves.
    """

    def __init__(self, device: Device, size: int = _NODES) -> None:
        lib = library()
        self._device = device
        # A tensor for each node and leaf, and the views beside.
        bytes_needed = 2 * size * lib.ggml_tensor_overhead()
        bytes_needed += lib.ggml_graph_overhead_custom(size, False)
        self._context = lib.ggml_init(ggml.InitParams(bytes_needed, None, True))
        self.handle = lib.ggml_new_graph_custom(self._context, size, False)
        self._append = function("build_forward_expand")
        self.patches: list[Patch] = []
        self.n_homes = 0
        """Homes that move, numbered from 0."""
        self._scratch: list[int] = []
        self._views: list[int] = []
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
        self._scratch.append(handle)
        return Node(handle, SCRATCH)

    def compute_into(self, home: int, offset: int, name: str, *operands: Node | float) -> Node:
        """A node whose result lies in a home that moves."""
        handle = self._make(name, operands)
        self.patches.append(Patch(handle, home, offset))
        return Node(handle, home, offset)

    def write(self, name: str, target: Node, *operands: Node) -> Node:
        """`set_rows` (target, rows, indices) or `cpy` (target, values): the target, written to."""
        order = (target, *operands) if name == "set_rows" else (*operands, target)
        handle = function(name)(self._context, *(node.handle for node in order))
        made = self._place_view(handle, target, 0)
        self._check(handle, name)
        self._expand(handle)
        return made

    @property
    def scratch_size(self) -> int:
        """Bytes of scratch memory that `place` needs."""
        return sum(map(self._device.size_of, self._scratch))

    def place(self, scratch: Memory) -> None:
        """Give their memory to all tensors but those in homes that move."""
        lib = library()
        offset = 0
        for handle in self._scratch:
            lib.ggml_backend_tensor_alloc(scratch.handle, handle, scratch.base + offset)
            offset += self._device.size_of(handle)
        for handle in self._views:
            lib.ggml_backend_view_init(handle)

    def whole(self, memory: Memory) -> int:
        """A tensor of floats that is all of some memory, to read it by."""
        lib = library()
        handle = int(lib.ggml_new_tensor_1d(self._context, F32, memory.size // WORD))
        lib.ggml_backend_tensor_alloc(memory.handle, handle, memory.base)
        return handle

    def close(self) -> None:
        """Free the graph; memory is its owners'."""
        if self._context:
            library().ggml_free(self._context)
            self._context = None

    def _make(self, name: str, operands: tuple[Node | float, ...]) -> int:
        plain = [o.handle if isinstance(o, Node) else o for o in operands]
        handle = function(name)(self._context, *plain)
        self._check(handle, name)
        self._expand(handle)
        return handle

    def _place_view(self, handle: int, source: Node, offset: int) -> Node:
        if source.home >= 0:
            self.patches.append(Patch(handle, source.home, source.offset + offset))
        else:
            self._views.append(handle)
        return Node(handle, source.home, source.offset + offset)

    def _check(self, handle: int, name: str) -> None:
        if self.unsupported is None and not self._device.supports(name, handle):
            self.unsupported = name

    def _expand(self, handle: int) -> None:
        self._append(self.handle, handle)
