"""What a cascade sees of a layer: rows of texts that run side by side, or of one chunk at a time.

Axes: T rows that are looked at, D FFN width, E width of the residual stream.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llamacart.machine.blas import one_blas_thread
from llamacart.passes.capture import forward
from llamacart.passes.lane import Errand, Lane, advance_together

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


class Room(NamedTuple):
    """Where a lane puts the rows of a side as soon as it has computed them; None: it does not.

    Attributes:
        rows: Room for the rows that are looked at [T, D].
        more: Room for those that are looked at for something else.
    """

    rows: Floats | None = None
    more: Floats | None = None


class Lanes:
    """Lanes of the sides of many chunks, which all stop at the same layers.

    Args:
        model: The model.
        sides: The texts of each lane; there is none for a side without texts.
        layers: Layers to stop at.
        n_threads: Threads of each lane.
        beside: Node of the residual stream, where it is asked for.
        rooms: Where the rows of each side go; those that have no room are copied when asked for.
        reads_only: Nobody steers them.
    """

    def __init__(
        self,
        model: Model,
        sides: Sequence[Side],
        layers: Collection[int],
        *,
        n_threads: int,
        beside: str | None,
        rooms: Sequence[Room] | None = None,
        reads_only: bool = False,
    ) -> None:
        self._model = model
        self._sides = sides
        self._beside = beside
        self._shown: dict[Lane, Floats] = {}
        self._steering: tuple[int, Steer] | None = None
        self._rooms = [Room()] * len(sides) if rooms is None else list(rooms)
        with ExitStack() as stack:
            stops = set(layers)
            self._lanes: list[Lane | None] = [
                stack.enter_context(
                    Lane(
                        model,
                        side.texts,
                        layers=stops,
                        shared=True,
                        n_threads=n_threads,
                        beside=beside,
                        reads_only=reads_only,
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
        own = [errand for group in groups for errand in group._errands()]
        lanes = [lane for lane, _ in own]
        found = advance_together(lanes, width, [errand for _, errand in own])
        shown = dict(zip(lanes, found, strict=True))
        for group in groups:
            group._shown = {lane: shown[lane] for lane in group._lanes if lane is not None}
            group._steering = None

    def _errands(self) -> list[tuple[Lane, Errand]]:
        """Each lane, and what it does on its way to the next layer."""
        out = []
        for lane, side, room in zip(self._lanes, self._sides, self._rooms, strict=True):
            if lane is None:
                continue
            steering = self._steering
            leaving = None if steering is None else partial(_lead, *steering, side.idle)
            out.append((lane, Errand(leaving, partial(_keep, side, room))))
        return out

    def seen(self, number: int) -> tuple[Seen, Seen]:
        """Rows of side `number`, copied or in their room: those looked at, and `more`."""
        lane, side, room = self._lanes[number], self._sides[number], self._rooms[number]
        if lane is None:
            nothing = Seen.nothing(self._model, self._beside)
            return nothing, nothing
        first, more = (
            Seen(
                self._shown[lane][rows] if own is None else own,
                lane.beside[rows] if self._beside else None,
            )
            for rows, own in ((side.rows, room.rows), (side.more, room.more))
        )
        return first, more

    def steer(self, layer: int, steer: Steer) -> None:
        """Let all lanes change what they hold of a layer as they go on."""
        self._steering = layer, steer


def _keep(side: Side, room: Room, h: Floats) -> None:
    for rows, own in ((side.rows, room.rows), (side.more, room.more)):
        if own is not None:
            np.take(h, rows, axis=0, out=own, mode="clip")  # the mode that needs no second copy


def _lead(layer: int, steer: Steer, idle: NDArray[np.int64], h: Floats) -> None:
    steer_some(layer, h, idle, steer)


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
) -> tuple[Seen, Seen]:
    """Run one side of a chunk up to a layer, and see its rows: those looked at, and `more`.

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
        nothing = Seen.nothing(model, beside)
        return nothing, nothing
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

    with one_blas_thread():  # llama.cpp's are on all processors
        forward(
            model,
            side.texts,
            visit,
            layers=[*before, layer],
            shared=True,
            n_threads=n_threads,
            beside=(beside, read) if beside else None,
        )
    first, more = (Seen(h[rows], x[rows] if beside else None) for rows in (side.rows, side.more))
    return first, more
