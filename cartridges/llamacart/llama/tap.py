"""A Python callback on the steering site: for capture, for the cascade, and as test oracle.

It holds the GIL and copies where a device owns the buffer, which is right offline and
wrong in a server; `llamacart.hook.steering_hook` is the compiled one.
"""

from __future__ import annotations

import ctypes
from collections import deque
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np

from llamacart.errors import EngineError
from llamacart.llama import ggml
from llamacart.llama.graph import caches_of
from llamacart.machine import pages
from llamacart.machine.interrupts import HeldInterrupt

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from llamacart.llama.weights import Weights

    Visitor = Callable[[int, NDArray[np.int64], NDArray[np.float32]], bool]
    """(layer, batch rows [T], h [T, D]) → go on? h may be written in place."""

    Reader = Callable[[int, NDArray[np.int64], NDArray[np.float32]], None]
    """(layer, batch rows [T], x [T, E], valid during the call)."""

    Beside = tuple[str, Reader]
    """A node that is computed before the shown one and still needed after it, and its reader."""


class Tap:
    """Shows each layer's gated product, or another node, to a visitor, which may change it.

    Args:
        model: Names the site.
        visitor: Called once for each wanted layer and ubatch with the batch rows that the
            tensor holds and their activations. Returning False ends the forward pass there: no
            later layer, and no logits, are computed. An exception does so too and is raised
            from `Context.decode`.
        node: Name of the node without its layer; None means the site.
        beside: Another node of the same layer, whose reader is called before the visitor. It
            costs no stop of its own.
        reads_only: The visitor writes nothing, so that nothing goes back to a device.
        lags: With `reads_only`, the visitor may be called for a layer of a device when the next
            wanted one has been computed, whose rows are copied meanwhile. It is called for the last
            wanted one at once. Not with `beside`.
        copy: Go through `ggml_backend_tensor_get/set` even where the buffer is the host's.
        sparing: Give back memory before the visitor is called: of what the site was computed from,
            and of the KV cache, where nothing that comes later reads them. For one batch of one
            ubatch, with which the context is done.
    """

    def __init__(
        self,
        model: Weights,
        visitor: Visitor,
        *,
        node: str | None = None,
        beside: Beside | None = None,
        reads_only: bool = False,
        lags: bool = False,
        copy: bool = False,
        sparing: bool = False,
    ) -> None:
        self._visitor = visitor
        spares = sparing and node is None and not model.uses_device
        self._spent = model.spent_sources if spares else ()
        self._lost: set[range] | None = set() if spares and model.kept_cache < 1 else None
        self._reader = beside[1] if beside else None
        layers = range(model.n_layer)
        self._beside = {f"{beside[0]}-{layer}": layer for layer in layers} if beside else {}
        self._tensors: dict[int, int] = {}
        self._copy, self._writes = copy, not reads_only
        self._lags = lags and reads_only and beside is None
        self._coming: tuple[int, NDArray[np.int64], NDArray[np.float32]] | None = None
        self._reading = 0
        self._places = Places(2 if self._lags else 1)
        self._places_beside = Places(1)
        self._context = 0
        self._last_layer = model.n_layer - 1
        self._layers = {f"{node or model.site_node}-{layer}": layer for layer in layers}
        self._error: BaseException | None = None
        self._interrupt = HeldInterrupt()
        self._output_rows: NDArray[np.int32] = np.zeros(0, np.int32)
        self._stopped = False
        self._row = self._next_row = self._output = self._next_output = 0
        self.wanted: set[int] = set(range(model.n_layer))
        """Layers the visitor is called for."""
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._call)
        self.user_data = 0

    def begin(self, n_rows: int, output_rows: NDArray[np.int32], context: int) -> None:  # noqa: ARG002
        """See `EvalHook`."""
        self._interrupt.begin()
        self._context, self._coming = context, None
        self._output_rows = output_rows
        self._error, self._stopped = None, False
        self._tensors.clear()
        if self._lost:
            raise EngineError("what an earlier batch left in the KV cache was given back")
        self._row = self._next_row = self._output = self._next_output = 0

    def use_threads(self, n: int) -> None:
        """See `EvalHook`: visitors compute on threads of their own."""

    def end(self, status: int) -> None:
        """Show what is still to be shown; raise what the visitor raised, or Ctrl-C."""
        self._interrupt.end()
        self._await()
        if self._error is not None:
            raise self._error
        if status == 0 and not self._stopped:
            self._show_last()

    def _call(self, tensor: int, ask: bool, _user_data: Any) -> bool:
        try:
            name = ggml.tensor_name(tensor)
            layer = self._layers.get(name)
            if self._lost is not None:
                self._lost.update(map(ggml.buffer_region, caches_of(tensor)))
            if layer is None:
                if name in self._beside:
                    self._tensors[self._beside[name]] = tensor
                return False
            if ask:
                self._locate(layer, ggml.tensor_shape(tensor)[0])
                return layer in self.wanted and not self._stopped
            self._stopped = not self._visit(tensor, layer) or self._interrupt.seen
            return not self._stopped
        except BaseException as error:
            self._error = error
            self._stopped = True
            return False

    def _locate(self, layer: int, n_rows: int) -> None:
        """Follow which batch rows the current ubatch holds: they come in batch order."""
        if layer == 0 and self._last_layer > 0:
            self._row, self._next_row = self._next_row, self._next_row + n_rows
        if layer == self._last_layer:
            self._output, self._next_output = self._next_output, self._next_output + n_rows

    def _visit(self, tensor: int, layer: int) -> bool:
        n_rows = ggml.tensor_shape(tensor)[0]
        if n_rows == 0:
            return True
        if layer == self._last_layer:
            rows = self._output_rows[self._output : self._output + n_rows].astype(np.int64)
        else:
            rows = np.arange(self._row, self._row + n_rows)
        if self._lags and (self._copy or not ggml.on_host(tensor)):
            return self._visit_later(tensor, layer, rows)
        if self._reader is not None:
            self._reader(layer, rows, self._values(self._tensors[layer], self._places_beside)[0])
        h, on_host = self._values(tensor, self._places)
        if on_host:
            self._give_back(tensor)
        go_on = self._visitor(layer, rows, h)
        if not on_host and self._writes and go_on:
            ggml.library().ggml_backend_tensor_set(tensor, h.ctypes.data, 0, h.nbytes)
        return go_on

    def _visit_later(self, tensor: int, layer: int, rows: NDArray[np.int64]) -> bool:
        """Begin to copy, and show the layer before meanwhile.

        llama.cpp waits for its backend before it calls back at the next layer. The backend does in
        order what it is told, so that no later node writes to what is being copied. To memory that
        is not pinned, backends copy at once or in ways of their own.
        """
        h = self._places.next(tensor)
        lib = ggml.library()
        backend = ggml.backend_of(self._context, tensor) if self._places.pinned else 0
        if backend:
            self._reading = backend
            lib.ggml_backend_tensor_get_async(backend, tensor, h.ctypes.data, 0, h.nbytes)
        else:
            lib.ggml_backend_tensor_get(tensor, h.ctypes.data, 0, h.nbytes)
        go_on = False
        try:
            go_on = self._show_last()
            self._coming = layer, rows, h
            if go_on and layer == max(self.wanted):
                self._await()
                go_on = self._show_last()
        finally:
            if not go_on:  # the pass may end here, and its memory go
                self._await()
        return go_on

    def _show_last(self) -> bool:
        """Show the rows that have come; whether to go on."""
        coming, self._coming = self._coming, None
        return coming is None or self._visitor(*coming)

    def _await(self) -> None:
        """Wait until copies have been made."""
        backend, self._reading = self._reading, 0
        if backend:
            ggml.library().ggml_backend_synchronize(backend)

    def _give_back(self, tensor: int) -> None:
        """Give back what a tensor was computed from, and what is in the KV cache."""
        for buffer in self._lost or ():
            pages.give_back(buffer)
        sources = ggml.sources(tensor)
        for place in self._spent:
            source = sources[place]
            region = range(0) if source is None else ggml.region(source)
            if not pages.meet(region, ggml.region(tensor)):
                pages.give_back(region)

    def _values(self, tensor: int, places: Places) -> tuple[NDArray[np.float32], bool]:
        """A tensor's own values where the host holds them, else a copy; and whether they are."""
        lib = ggml.library()
        if not self._copy and ggml.on_host(tensor):
            return _floats(lib.ggml_get_data(tensor), *ggml.tensor_shape(tensor)), True
        staged = places.next(tensor)
        lib.ggml_backend_tensor_get(tensor, staged.ctypes.data, 0, staged.nbytes)
        return staged, False


class Places:
    """Memory of the host for copies of tensors, one after another.

    Args:
        n: Copies that are there at the same time; the next one takes the oldest one's place.

    Attributes:
        pinned: Whether the device copies to the last one without the host's help.
    """

    def __init__(self, n: int) -> None:
        self._made: deque[NDArray[np.float32]] = deque([np.zeros(0, np.float32)] * n)
        self.pinned = False

    def next(self, tensor: int) -> NDArray[np.float32]:
        """A place [T, D] for a tensor."""
        n_rows, width = ggml.tensor_shape(tensor)
        place = self._made.popleft()
        if place.size < n_rows * width:
            memory = ggml.pinned(tensor, n_rows * width)
            self.pinned = memory is not None
            place = np.empty(n_rows * width, np.float32)
            if memory is not None:
                place = np.ctypeslib.as_array(memory)
        self._made.append(place)
        return place[: n_rows * width].reshape(n_rows, width)


def _floats(address: int, n_rows: int, width: int) -> NDArray[np.float32]:
    pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(pointer, (n_rows, width))
