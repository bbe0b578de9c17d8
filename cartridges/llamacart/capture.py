"""Run token sequences through a model and look at every layer's gated product.

Rows are numbered over all sequences: sequence 0's tokens first, then sequence 1's, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llamacart.context import MAX_SEQUENCES, Batch, Context
from llamacart.errors import InputError
from llamacart.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from llamacart.model import Model
    from llamacart.tap import Visitor

LOGITS_BUDGET = 512 * 2**20
"""Bytes that llama.cpp may reserve for logits nobody reads (see `forward`)."""

ROWS_PER_PASS = 512


@dataclass(frozen=True)
class _Pass:
    """Sequences that share one filling of the KV cache."""

    first_row: int
    sequences: Sequence[Sequence[int]]

    @property
    def n_rows(self) -> int:
        return sum(map(len, self.sequences))


def row_offsets(sequences: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """First row of each of n sequences, and behind them the number of all rows, [n + 1]."""
    return np.cumsum([0, *map(len, sequences)], dtype=np.int64)


def output_budget(model: Model) -> int:
    """Rows whose last layer fits `LOGITS_BUDGET`."""
    return max(1, LOGITS_BUDGET // (4 * model.n_vocab))


def forward(
    model: Model,
    sequences: Sequence[Sequence[int]],
    visitor: Visitor,
    *,
    layers: Iterable[int],
    n_threads: int | None = None,
    copy: bool = False,
) -> None:
    """Show `visitor` the gated product of the given layers for all rows of all sequences.

    llama.cpp computes the last layer only for rows whose logits are asked for, and reserves
    n_vocab floats for each. Where the last layer is wanted the rows therefore go in slices that
    keep this under `LOGITS_BUDGET`; the logits themselves are never computed, because nothing
    after the last wanted layer is.

    Args:
        model: The model.
        sequences: Token ids, each a sequence of its own from position 0.
        visitor: Called with (layer, rows [T], h [T, D]); rows are numbered over all sequences.
            May write to h; returning False ends the current slice.
        layers: Layers wanted.
        n_threads: Threads for compute.
        copy: See `Tap`.
    """
    wanted = set(layers)
    last = max(wanted)
    final_layer = model.n_layer - 1
    total = sum(map(len, sequences))
    budget = output_budget(model)
    if any(len(sequence) == 0 for sequence in sequences) or not sequences:
        raise InputError("a sequence without tokens cannot be run")
    longest = max(map(len, sequences))
    n_ctx = max(longest, min(total, ROWS_PER_PASS))
    n_batch = min(n_ctx, ROWS_PER_PASS)
    if final_layer in wanted:
        n_batch = min(n_batch, budget)
    offset = 0

    def shifted(layer: int, rows: NDArray[np.int64], h: NDArray[np.float32]) -> bool:
        go_on = visitor(layer, rows + offset, h)
        return go_on and layer != last

    tap = Tap(model, shifted, copy=copy)
    tap.wanted = wanted
    passes = list(_passes(sequences, n_ctx))
    with Context(
        model,
        n_ctx=n_ctx,
        n_batch=n_batch,
        n_seq_max=max(len(p.sequences) for p in passes),
        n_outputs=n_batch if final_layer in wanted else 1,
        n_threads=n_threads,
        hook=tap,
    ) as context:
        for current in passes:
            context.clear()
            tokens, positions, owners = _rows(current)
            for start in range(0, len(tokens), n_batch):
                part = slice(start, start + n_batch)
                offset = current.first_row + start
                n_rows = len(tokens[part])
                outputs = [final_layer in wanted] * n_rows
                context.decode(Batch(tokens[part], positions[part], owners[part], outputs))


def capture(
    model: Model,
    sequences: Sequence[Sequence[int]],
    *,
    layers: Iterable[int] | None = None,
    rows: NDArray[np.integer] | None = None,
    n_threads: int | None = None,
    copy: bool = False,
) -> dict[int, NDArray[np.float32]]:
    """Activations of chosen layers and rows.

    Args:
        model: The model.
        sequences: Token ids of each text.
        layers: Layers to keep; None means all.
        rows: Rows to keep, ascending, numbered over all sequences; None means all.
        n_threads: Threads for compute.
        copy: See `Tap`.

    Returns:
        For each layer an array [N, D], in the order of `rows`.
    """
    chosen = sorted(set(range(model.n_layer) if layers is None else layers))
    total = sum(map(len, sequences))
    kept = np.arange(total) if rows is None else np.asarray(rows, np.int64)
    place = np.full(total, -1, np.int64)
    place[kept] = np.arange(len(kept))
    out = {layer: np.zeros((len(kept), model.n_ff), np.float32) for layer in chosen}

    def keep(layer: int, seen: NDArray[np.int64], h: NDArray[np.float32]) -> bool:
        target = place[seen]
        out[layer][target[target >= 0]] = h[target >= 0]
        return True

    forward(model, sequences, keep, layers=chosen, n_threads=n_threads, copy=copy)
    return out


def _passes(sequences: Sequence[Sequence[int]], n_ctx: int) -> Iterator[_Pass]:
    """Group whole sequences into fillings of the KV cache."""
    group: list[Sequence[int]] = []
    first_row = used = 0
    for sequence in sequences:
        if group and (used + len(sequence) > n_ctx or len(group) == MAX_SEQUENCES):
            yield _Pass(first_row, group)
            first_row, used, group = first_row + used, 0, []
        group.append(sequence)
        used += len(sequence)
    yield _Pass(first_row, group)


def _rows(current: _Pass) -> tuple[list[int], list[int], list[int]]:
    """Tokens, positions and sequence ids of a pass, one entry a row."""
    tokens = [token for sequence in current.sequences for token in sequence]
    positions = [i for sequence in current.sequences for i in range(len(sequence))]
    owners = [s for s, sequence in enumerate(current.sequences) for _ in sequence]
    return tokens, positions, owners
