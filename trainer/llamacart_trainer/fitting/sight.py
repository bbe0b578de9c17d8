"""What a cascade sees of a layer: rows of texts that run side by side, or of one chunk at a time.

Axes: T rows that are looked at, D FFN width, E width of the residual stream.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llamacart.passes.capture import forward
from llamacart.passes.lane import Lane, advance_together

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart_trainer.fitting.chunks import Side

    Floats = NDArray[np.float32]
    Steer = Callable[[int, Floats], None]
    """(layer, h [T, D]): changes h as the layer's map does."""


class Seen(NamedTuple):
    """Rows of one side of a chunk at one layer.

    Attributes:
        h: Gated products [T, D].
        x: The residual stream that enters the FFN [T, E]; None where nobody asks for it.
    """

    h: Floats
    x: Floats | None = None

    @classmethod
    def nothing(cls, model: Model, beside: str | None) -> Seen:
        """No rows, as of a side without texts."""
        h, x = (np.zeros((0, width), np.float32) for width in (model.n_ff, model.n_embd))
        return cls(h, x if beside else None)


class Lanes:
    """Lanes of the sides of many chunks, which all stop at the same layers.

    Args:
        model: The model.
        sides: The texts of each lane; there is none for a side without texts.
        layers: Layers to stop at.
        n_threads: Threads of each lane.
        beside: Node of the residual stream, where it is asked for.
    """

    def __init__(
        self,
        model: Model,
        sides: Sequence[Side],
        layers: Collection[int],
        *,
        n_threads: int,
        beside: str | None,
    ) -> None:
        self._model = model
        self._sides = sides
        self._beside = beside
        self._shown: dict[Lane, Floats] = {}
        with ExitStack() as stack:
            stops = set(layers)
            self._lanes: list[Lane | None] = [
                stack.enter_context(
                    Lane(
                        model,
                        side.texts,
                        layers=stops,
                        shared=side.shared,
                        n_threads=n_threads,
                        beside=beside,
                    )
                )
                if side.texts
                else None
                for side in sides
            ]
            self._stack = stack.pop_all()

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @staticmethod
    def advance(groups: Sequence[Lanes], width: int) -> None:
        """Run the lanes of all groups to their next layer, `width` of them at the same time."""
        lanes = [lane for group in groups for lane in group._lanes if lane is not None]
        shown = dict(zip(lanes, advance_together(lanes, width), strict=True))
        for group in groups:
            group._shown = {lane: shown[lane] for lane in group._lanes if lane is not None}

    def seen(self, number: int) -> Seen:
        """Copies of the rows that side `number` is looked at for."""
        lane, side = self._lanes[number], self._sides[number]
        if lane is None:
            return Seen.nothing(self._model, self._beside)
        x = lane.beside[side.rows] if self._beside else None
        return Seen(self._shown[lane][side.rows], x)

    def steer(self, layer: int, steer: Steer) -> None:
        """Change what all lanes hold of a layer."""
        for lane, side in zip(self._lanes, self._sides, strict=True):
            if lane is not None:
                steer_some(layer, self._shown[lane], side.idle, steer)


def steer_some(layer: int, h: Floats, idle: NDArray[np.int64], steer: Steer) -> None:
    """Steer all rows of h [T, D] in place but the idle ones."""
    kept = h[idle].copy()
    steer(layer, h)
    h[idle] = kept


def see(
    model: Model,
    side: Side,
    layer: int,
    *,
    before: Sequence[int] = (),
    steer: Steer = lambda _layer, _h: None,
    beside: str | None = None,
    n_threads: int | None = None,
) -> Seen:
    """Run one side of a chunk up to a layer.

    Args:
        model: The model.
        side: The texts and the rows that are looked at.
        layer: Layer to see.
        before: Layers before it that are steered.
        steer: Changes what those hold.
        beside: Node of the residual stream, where it is asked for.
        n_threads: Threads for compute.
    """
    if not side.texts:
        return Seen.nothing(model, beside)
    total = side.n_rows
    h = np.zeros((total, model.n_ff), np.float32)
    x = np.zeros((total if beside else 0, model.n_embd), np.float32)

    def read(seen: int, rows: NDArray[np.int64], stream: Floats) -> None:
        if seen == layer:
            x[rows] = stream

    def visit(seen: int, rows: NDArray[np.int64], product: Floats) -> bool:
        if seen == layer:
            h[rows] = product
        else:
            steer_some(seen, product, np.flatnonzero(np.isin(rows, side.idle)), steer)
        return True

    forward(
        model,
        side.texts,
        visit,
        layers=[*before, layer],
        shared=side.shared,
        n_threads=n_threads,
        beside=(beside, read) if beside else None,
    )
    return Seen(h[side.rows], x[side.rows] if beside else None)
