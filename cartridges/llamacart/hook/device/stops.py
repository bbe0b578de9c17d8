"""What it costs to stop a model's graph at a layer, where nothing is done there."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llama_cpp

from llamacart.llama import ggml
from llamacart.llama.context import Context
from llamacart.values.batch import Batch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llamacart.llama.model import Model

NEGLIGIBLE = 0.05
"""Share of a token's time that nobody notices."""

_WARM_UP = 4
_TURNS = 24  # each of a step with stops and one without


@dataclass(frozen=True)
class Stops:
    """A decode step of one row, with a stop at each layer and with none.

    Attributes:
        seconds: Of one stop, at least 0.
        token: Seconds of a step without stops.
        n_layer: Stops of a step.
    """

    seconds: float
    token: float
    n_layer: int

    @property
    def share(self) -> float:
        """What a step's stops add to it, as a share."""
        return self.n_layer * self.seconds / self.token

    def negligible_from(self, size: float) -> float:
        """Bytes of weights from which they are `NEGLIGIBLE`, for as many layers.

        Args:
            size: Bytes of this model's weights, whose reading the rest of a step is taken for.
        """
        return size * self.share / NEGLIGIBLE


class Asking:
    """An `EvalHook` that asks for each layer's site while `stops`, and does nothing there.

    Args:
        model: Names the site.
    """

    def __init__(self, model: Model) -> None:
        self._names = {f"{model.site_node}-{layer}" for layer in range(model.n_layer)}
        self.stops = False
        self.seen = 0
        """Stops so far."""
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._call)
        self.user_data = 0

    def begin(self, n_rows: int, output_rows: NDArray[np.int32], context: int) -> None:
        """See `EvalHook`."""

    def use_threads(self, n: int) -> None:
        """See `EvalHook`."""

    def end(self, status: int) -> None:
        """See `EvalHook`."""

    def _call(self, tensor: int, ask: bool, _user_data: Any) -> bool:
        # The name is looked up either way, so that only the stops differ.
        wanted = ggml.tensor_name(tensor) in self._names
        if ask:
            return wanted and self.stops
        self.seen += 1
        return True


def measure(model: Model) -> Stops:
    """Decode one row again and again, in turn with stops and without.

    The stops are timed through a Python callback, whose call is part of them: some microseconds.

    Raises:
        EngineError: llama.cpp failed.
    """
    asking = Asking(model)
    times: dict[bool, list[float]] = {False: [], True: []}
    n_steps = 2 * (_WARM_UP + _TURNS)
    with Context(model, n_ctx=n_steps, n_batch=1, hook=asking) as context:
        for position in range(n_steps):
            asking.stops = bool(position % 2)
            start = time.perf_counter()
            context.decode(Batch([0], [position], [0], [True]))
            times[asking.stops].append(time.perf_counter() - start)
    without, stopped = times[False][_WARM_UP:], times[True][_WARM_UP:]
    # Neighbours in time are compared: a machine's speed drifts.
    more = statistics.median(b - a for a, b in zip(without, stopped, strict=True))
    return Stops(max(0.0, more) / model.n_layer, statistics.median(without), model.n_layer)
