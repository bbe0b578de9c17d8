"""Rows of a steered model to fold a bias on: its own texts, and what enters its down projections.

Axes: N rows, D FFN width.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from llamacart.passes.capture import forward, row_numbers
from llamacart.passes.generate import sampled
from llamacart.values.sampling import SamplingParams
from llamacart.values.steering import DenseMap, Dose

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from llamacart.cartridge import Cartridge, LayerMap
    from llamacart.llama.model import Model

    Tokens = Sequence[int]

GRAM_BUDGET = 1 << 30
"""Bytes of Gram matrices that are held at once; more layers than fit take another pass."""

_SEED = 20_261


@dataclass
class LayerRows:
    """What the gated products of one layer are like, before its own map acts.

    Attributes:
        gram: XᵀX, float64 [D, D], of the N rows to fit on.
        sums: Xᵀ1, float64 [D].
        scale: Mean square of an entry of X, the first row of each text left out: it (BOS) is
            hundreds of times longer than the others.
        held: Other rows to measure on, float32 [M, D], without the first of each text.
    """

    gram: NDArray[np.float64]
    sums: NDArray[np.float64]
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
    fit: Sequence[Tokens],
    held: Sequence[Tokens],
    *,
    n_threads: int | None = None,
) -> Iterator[tuple[LayerMap, LayerRows]]:
    """Rows of each layer that the cartridge acts on, in ascending order of the layers.

    All layers below act at α. A pass holds as many layers as `GRAM_BUDGET` has room for.

    Args:
        model: The model.
        cartridge: It; its condition, if it has one, is not waited for.
        alpha: α.
        fit: Token ids of the texts to fit on.
        held: Those of other texts to measure on.
        n_threads: Threads for compute.
    """
    at_once = max(1, GRAM_BUDGET // (8 * model.n_ff**2))
    layers = iter(cartridge.layers)
    while group := list(islice(layers, at_once)):
        numbers = [m.layer for m in group]
        below = [m for m in cartridge.layers if m.layer <= numbers[-1]]
        found = _pass(model, below, numbers, alpha, (fit, held), n_threads)
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
    total = sum(map(len, numbers))
    is_first, is_held = np.zeros(total, bool), np.zeros(total, bool)
    is_first[[own[0] for own in numbers]] = True
    for own in numbers[len(fit) :]:
        is_held[own] = True
    by_layer = {m.layer: DenseMap.of(m, model.n_ff) for m in maps}
    out = {layer: _Sums(model.n_ff) for layer in wanted}

    def look(layer: int, rows: NDArray[np.int64], h: NDArray[np.float32]) -> bool:
        if layer in out:
            first, kept = is_first[rows], is_held[rows]
            out[layer].add(h[~first & ~kept])
            out[layer].add(h[first & ~kept], first=True)
            out[layer].held.append(h[kept & ~first])
        by_layer[layer].steer(h, alpha)
        return True

    forward(model, [*fit, *held], look, layers=by_layer, n_threads=n_threads)
    return {layer: sums.rows() for layer, sums in out.items()}


class _Sums:
    """Adds up rows of one layer."""

    def __init__(self, width: int) -> None:
        self._gram = np.zeros((width, width), np.float64)
        self._sums = np.zeros(width, np.float64)
        self._square, self._count = 0.0, 0
        self.held: list[NDArray[np.float32]] = []

    def add(self, h: NDArray[np.float32], *, first: bool = False) -> None:
        """Rows [N, D]; long and short ones apart, since the sums of a product are float32."""
        self._gram += h.T @ h
        self._sums += h.sum(axis=0, dtype=np.float64)
        if not first:
            self._square += float(np.einsum("nd,nd->", h, h, dtype=np.float64))
            self._count += h.size

    def rows(self) -> LayerRows:
        """All that has been added."""
        return LayerRows(
            self._gram, self._sums, self._square / max(1, self._count), np.concatenate(self.held)
        )
