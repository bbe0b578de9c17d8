"""Where the rows of a layer lie that is fitted: those of all chunks, one behind the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llamacart_trainer.fitting.sight import Room

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart_trainer.fitting.chunks import SampleChunk

    Floats = NDArray[np.float32]


class Counts(NamedTuple):
    """Rows of all chunks.

    Attributes:
        steered: Source rows under the layers before.
        untouched: Source rows where no cartridge acts.
        aims: M or n.
    """

    steered: int
    untouched: int
    aims: int


class Rooms(NamedTuple):
    """Where lanes put rows of all chunks, one behind the other; None where they do not.

    Attributes:
        x: Source activations [N, D]; untouched ones come last.
        aims: Target activations [M, D], where those are what is aimed at.
    """

    x: Floats | None = None
    aims: Floats | None = None


NO_ROOMS = Rooms()


def count(chunks: Sequence[SampleChunk]) -> Counts:
    """Rows of all chunks."""
    steered = sum(len(chunk.source_rows) for chunk in chunks)
    fitted = sum(chunk.n_fitted for chunk in chunks)
    return Counts(steered, fitted - steered, sum(len(chunk.target_rows) for chunk in chunks))


def share_out(chunks: Sequence[SampleChunk], rooms: Rooms) -> tuple[list[Room], list[Room]]:
    """Where the rows of each chunk's sources go, and those of its targets."""
    counts = count(chunks)
    x, untouched = (None, None) if rooms.x is None else np.split(rooms.x, [counts.steered])
    own = _pieces(x, [len(chunk.source_rows) for chunk in chunks])
    aims = _pieces(rooms.aims, [len(chunk.target_rows) for chunk in chunks])
    more = _pieces(untouched, [chunk.n_fitted - len(chunk.source_rows) for chunk in chunks])
    return list(map(Room, own)), list(map(Room, aims, more))


def _pieces(room: Floats | None, lengths: Sequence[int]) -> Sequence[Floats | None]:
    """Rows one behind the other, so many for each."""
    return [None] * len(lengths) if room is None else np.split(room, np.cumsum(lengths)[:-1])
