"""What a cascade sees of a layer where some rows are never acted on."""

from __future__ import annotations

import numpy as np
import pytest

from llamacart.llama.model import Model
from llamacart_trainer.fitting.chunks import SampleChunk, Side, with_idle
from llamacart_trainer.fitting.sight import Lanes, Room, see

TEXTS = ((1, 30, 31, 32), (1, 33, 40), (1, 50, 51, 52, 53))
ACTS = {TEXTS[0]: [0, 0, 1, 1], TEXTS[1]: [0, 1, 1], TEXTS[2]: [0, 0, 0, 0, 0]}


def acts(text: tuple[int, ...]) -> list[bool]:
    return list(map(bool, ACTS[text]))


def chunk() -> SampleChunk:
    rows = np.arange(10)  # the first token is shared
    return SampleChunk(TEXTS, (), rows, rows[:0], np.ones(10, np.bool_), rows)


def test_idle_rows_are_numbered_over_all_texts() -> None:
    assert with_idle(chunk(), acts).source.idle.tolist() == [0, 1, 6, 7, 8, 9]


def by_lanes(model: Model, side: Side) -> np.ndarray:
    with Lanes(model, [side], [0, 1], n_threads=1, beside=None) as lanes:
        Lanes.advance([lanes], 1)
        lanes.steer(0, push)
        Lanes.advance([lanes], 1)
        return lanes.seen(0)[0].h


def by_lanes_with_room(model: Model, side: Side) -> np.ndarray:
    room = np.empty((len(side.rows), model.n_ff), np.float32)
    with Lanes(model, [side], [0, 1], n_threads=1, beside=None, rooms=[Room(room)]) as lanes:
        Lanes.advance([lanes], 1)
        first = room.copy()
        lanes.steer(0, push)
        Lanes.advance([lanes], 1)
        assert np.shares_memory(lanes.seen(0)[0].h, room)
        assert (first != room).any()
    return room


def streamed(model: Model, side: Side) -> np.ndarray:
    return see(model, side, 1, before=[0], steer=push, n_threads=1)[0].h


def push(_layer: int, h: np.ndarray) -> None:
    h += 100


@pytest.mark.parametrize("way", [by_lanes, by_lanes_with_room, streamed])
def test_idle_rows_are_not_steered(tiny_model: Model, way) -> None:
    side = with_idle(chunk(), acts).source
    own = see(tiny_model, side._replace(idle=side.idle[:0]), 1, n_threads=1)[0].h
    steered = way(tiny_model, side)
    moved = (steered != own).any(axis=1)
    # A row that is not acted on sees none that is before it.
    assert np.flatnonzero(~moved).tolist() == side.idle.tolist()
    np.testing.assert_array_equal(steered[~moved], own[~moved])
