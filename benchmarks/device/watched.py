"""A steering hook under observation: what each layer held before it acted, and after."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np

from llamacart.hook.steering_hook import SteeringHook
from llamacart.llama import ggml
from llamacart.llama.context import Context
from llamacart.values.steering import apply_reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from llamacart.cartridge import Cartridge
    from llamacart.hook.steering_hook import Place
    from llamacart.llama.context import EvalHook
    from llamacart.llama.model import Model
    from llamacart.values.batch import Batch
    from llamacart.values.steering import Steering

PASSES = 2
"""The hook learns in the first which device holds a layer, and acts there in the second."""


@dataclass(frozen=True)
class Seen:
    """The gated product of a layer around the hook's step.

    Attributes:
        layer: Which.
        rows: Rows of the batch that it holds [T].
        before: h [T, D].
        after: What the hook made of it [T, D].
    """

    layer: int
    rows: NDArray[np.int64]
    before: NDArray[np.float32]
    after: NDArray[np.float32]


class WatchedHook:
    """Hands every node on to a steering hook, and copies the site's tensors around its steps.

    A batch must go through the graph at once.

    Args:
        model: Names the site.
        hook: Acts.
    """

    def __init__(self, model: Model, hook: SteeringHook) -> None:
        self._hook = hook
        self._layers = {f"{model.site_node}-{layer}": layer for layer in range(model.n_layer)}
        self._last = model.n_layer - 1
        self._n_rows, self._outputs = 0, np.zeros(0, np.int32)
        self.seen: list[Seen] = []
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._call)
        self.user_data = 0

    def begin(self, n_rows: int, output_rows: NDArray[np.int32], context: int) -> None:
        """See `EvalHook`."""
        self.seen = []
        self._n_rows, self._outputs = n_rows, output_rows
        self._hook.begin(n_rows, output_rows, context)

    def use_threads(self, n: int) -> None:
        """See `EvalHook`."""
        self._hook.use_threads(n)

    def end(self, status: int) -> None:
        """See `EvalHook`."""
        self._hook.end(status)

    def _call(self, tensor: int, ask: bool, _user_data: Any) -> bool:
        layer = self._layers.get(ggml.tensor_name(tensor))
        act = self._hook.callback
        if ask or layer is None:
            return bool(act(tensor, ask, self._hook.user_data))
        before = values(tensor)
        go_on = bool(act(tensor, ask, self._hook.user_data))
        self._hook.wait()
        last = layer == self._last
        rows = self._outputs.astype(np.int64) if last else np.arange(self._n_rows)
        self.seen.append(Seen(layer, rows, before, values(tensor)))
        return go_on


def values(tensor: int) -> NDArray[np.float32]:
    """A copy of a tensor's rows [T, D], wherever they lie."""
    copy = np.empty(ggml.tensor_shape(tensor), np.float32)
    ggml.library().ggml_backend_tensor_get(tensor, copy.ctypes.data, 0, copy.nbytes)
    return copy


@dataclass(frozen=True)
class Errors:
    """How far steps are from NumPy's.

    Attributes:
        share_of_step: Largest ‖error‖/‖Δ‖ of a row at a layer.
        share_of_largest: Largest error of a number over the largest of its layer.
        untouched: Whether each number that no cartridge moves has stayed as it was, to the byte.
        n_steps: Rows that were moved, over all layers.
        on_device: Layers whose steps were graphs on a device.
    """

    share_of_step: float
    share_of_largest: float
    untouched: bool
    n_steps: int
    on_device: int


def step_errors(seen: Sequence[Seen], steerings: Sequence[Steering], on_device: int = 0) -> Errors:
    """Compare what was seen with the dense reference.

    Args:
        seen: Of one batch.
        steerings: What acted on each row of the batch.
        on_device: See `Errors`.
    """
    of_step = of_largest = 0.0
    n_steps, untouched = 0, True
    for layer in seen:
        own = [steerings[row] for row in layer.rows]
        expected = apply_reference(layer.before, own, layer.layer)
        still = ~moved_neurons(own, layer.layer, layer.before.shape)
        untouched &= bool((layer.after[still] == layer.before[still]).all())
        error = np.linalg.norm(layer.after - expected, axis=1)
        step = np.linalg.norm(expected - layer.before, axis=1)
        acted = step > 0
        n_steps += int(acted.sum())
        of_step = max(of_step, float((error[acted] / step[acted]).max(initial=0.0)))
        largest = float(np.abs(expected).max(initial=1e-30))
        of_largest = max(of_largest, float(np.abs(layer.after - expected).max() / largest))
        if not np.isfinite(layer.after).all():
            of_step = of_largest = float("inf")
    return Errors(of_step, of_largest, untouched, n_steps, on_device)


def moved_neurons(
    steerings: Sequence[Steering], layer: int, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Which numbers of h [T, D] some cartridge may move."""
    moved = np.zeros(shape, bool)
    for row, steering in enumerate(steerings):
        for dose in steering:
            for layer_map in dose.cartridge.layers:
                if layer_map.layer == layer and dose.alpha != 0.0:
                    moved[row, layer_map.neurons] = True
    return moved


def watch(
    model: Model,
    cartridges: Sequence[Cartridge],
    batch: Batch,
    steerings: Sequence[Steering],
    place: Place,
) -> Errors:
    """Errors of the steps of one batch, with the hook where it learnt to be."""
    hook = _loaded(model, cartridges, batch, place)
    watched = WatchedHook(model, hook)
    with _decoded(model, hook, watched, batch, steerings):
        pass
    ran = hook.device.ran if hook.device is not None else np.zeros(0)
    return step_errors(watched.seen, steerings, int(np.count_nonzero(ran)))


def logits_of(
    model: Model, cartridges: Sequence[Cartridge], batch: Batch, steerings: Sequence[Steering]
) -> NDArray[np.float32]:
    """Logits [n outputs, V] of a batch, after a first one by which the hook learns its place."""
    hook = _loaded(model, cartridges, batch, "auto")
    with _decoded(model, hook, hook, batch, steerings) as context:
        return np.stack([context.logits(i).copy() for i, out in enumerate(batch.outputs) if out])


def _loaded(
    model: Model, cartridges: Sequence[Cartridge], batch: Batch, place: Place
) -> SteeringHook:
    """A hook for the rows of a batch, with cartridges resident."""
    hook = SteeringHook(model, max_rows=len(batch.tokens), place=place)
    for cartridge in cartridges:
        hook.load(cartridge)
    return hook


@contextmanager
def _decoded(
    model: Model,
    steers: SteeringHook,
    hook: EvalHook,
    batch: Batch,
    steerings: Sequence[Steering],
) -> Iterator[Context]:
    """A context, with `hook` in it, that has decoded a batch `PASSES` times."""
    n_rows = len(batch.tokens)
    with Context(
        model,
        n_ctx=n_rows,
        n_batch=n_rows,
        n_seq_max=max(batch.sequences) + 1,
        n_outputs=n_rows,
        hook=hook,
    ) as context:
        for _ in range(PASSES):
            context.clear()
            steers.set_rows(list(steerings))
            context.decode(batch)
        yield context
