"""Rows of a steered model to fold a bias on: its own texts, and what enters its down projections.

Axes: N rows, D FFN width.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import InputError
from llamacart.export.constant import solving_bytes
from llamacart.machine.memory import default_memory
from llamacart.passes.capture import forward, forward_bytes, row_numbers
from llamacart.passes.generate import sampled
from llamacart.values.sampling import SamplingParams
from llamacart.values.steering import DenseMap, Dose

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from llamacart.cartridge import Cartridge, LayerMap
    from llamacart.llama.model import Model

    Tokens = Sequence[int]

_SEED = 20_261


@dataclass
class LayerRows:
    """What the gated products of one layer are like, before its own map acts.

    Attributes:
        fit: Rows X to fit on, float32 [N, D].
        scale: Mean square of an entry of X, the first row of each text left out: it (BOS) is
            hundreds of times longer than the others.
        held: Other rows to measure on, float32 [M, D], without the first of each text.
    """

    fit: NDArray[np.float32]
    scale: float
    held: NDArray[np.float32]


def own_openings(
    model: Model, n: int, n_tokens: int, *, n_threads: int | None = None
) -> list[list[int]]:
    """Beginnings of `n` texts, drawn from the unsteered model at temperature 1.

    A text begins with the model's BOS token, or with its end token where it has none: that is what
    stands between two texts of its training.
    """
    first = model.bos_token if model.bos_token >= 0 else model.eos_token
    start = [first] if first >= 0 else model.tokenize("\n")
    params = SamplingParams(seed=_SEED)
    drawn = sampled(model, [start] * n, n_tokens, params, n_threads=n_threads)
    return [[*start, *own] for own in drawn]


def continued(
    model: Model,
    openings: Sequence[Tokens],
    n_tokens: int,
    dose: Dose,
    *,
    n_threads: int | None = None,
) -> list[list[int]]:
    """Openings with what the steered model says next, drawn at temperature 1."""
    params = SamplingParams(seed=_SEED + 1)
    drawn = sampled(model, openings, n_tokens, params, steering=(dose,), n_threads=n_threads)
    return [[*opening, *own] for opening, own in zip(openings, drawn, strict=True)]


def gather(
    model: Model,
    cartridge: Cartridge,
    alpha: float,
    texts: tuple[Sequence[Tokens], Sequence[Tokens]],
    *,
    max_memory: int | None = None,
    n_threads: int | None = None,
) -> Iterator[tuple[LayerMap, LayerRows]]:
    """Rows of each layer that the cartridge acts on, in ascending order of the layers.

    All layers below act at α. A pass holds the rows of as many layers as `max_memory` has room
    for; the others take another pass.

    Args:
        model: The model.
        cartridge: It; its condition, if it has one, is not waited for.
        alpha: α.
        texts: Token ids of the texts to fit on, and of others to measure on.
        max_memory: Bytes for the rows, what is fitted on them and the model's buffers; None
            means a training's default.
        n_threads: Threads for compute.

    Raises:
        InputError: The rows of one layer need more.
    """
    n_fit, n_held = (sum(map(len, part)) for part in texts)
    a_layer = 4 * (n_fit + n_held) * model.n_ff
    beside = solving_bytes(n_fit, model.n_ff) + forward_bytes(
        model, [text for part in texts for text in part], [m.layer for m in cartridge.layers]
    )
    beside += 4 * model.n_ff * sum(len(m.neurons) for m in cartridge.layers)
    room = default_memory() if max_memory is None else max_memory
    at_once = (room - beside) // a_layer
    if at_once < 1:
        raise InputError(
            f"max_memory has value {room / 2**30:.2f} GiB; {n_fit + n_held} rows of one layer need "
            f"{(beside + a_layer) / 2**30:.2f}; give fewer or shorter texts",
            param="max_memory",
        )
    layers = iter(cartridge.layers)
    while group := list(islice(layers, at_once)):
        numbers = [m.layer for m in group]
        below = [m for m in cartridge.layers if m.layer <= numbers[-1]]
        found = _pass(model, below, numbers, alpha, texts, n_threads)
        for layer_map in group:
            yield layer_map, found.pop(layer_map.layer)


def _pass(
    model: Model,
    maps: Sequence[LayerMap],
    wanted: Sequence[int],
    alpha: float,
    texts: tuple[Sequence[Tokens], Sequence[Tokens]],
    n_threads: int | None,
) -> dict[int, LayerRows]:
    fit, held = texts
    numbers = row_numbers([*fit, *held])
    n_fit = sum(map(len, fit))
    firsts = np.array([own[0] for own in numbers])
    place = np.arange(sum(map(len, numbers)))
    place[firsts[len(fit) :]] = -1
    kept = np.flatnonzero(place >= 0)
    place[kept] = np.arange(len(kept))
    by_layer = {m.layer: DenseMap.of(m, model.n_ff) for m in maps}
    seen = {layer: np.empty((len(kept), model.n_ff), np.float32) for layer in wanted}

    def look(layer: int, rows: NDArray[np.int64], h: NDArray[np.float32]) -> bool:
        if layer in seen:
            target = place[rows]
            seen[layer][target[target >= 0]] = h[target >= 0]
        by_layer[layer].steer(h, alpha)
        return True

    forward(model, [*fit, *held], look, layers=by_layer, n_threads=n_threads)
    others = np.delete(np.arange(n_fit), firsts[: len(fit)])
    out = {}
    for layer, x in seen.items():
        squares = np.einsum("nd,nd->n", x[:n_fit], x[:n_fit], dtype=np.float64)
        scale = float(squares[others].sum()) / max(1, len(others) * model.n_ff)
        out[layer] = LayerRows(x[:n_fit], scale, x[n_fit:])
    return out
