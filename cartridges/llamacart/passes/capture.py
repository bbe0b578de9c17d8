"""Run token sequences through a model and look at every layer's gated product.

Rows are numbered over all sequences: sequence 0's tokens first, then sequence 1's, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import InputError
from llamacart.llama.context import Context
from llamacart.llama.footprint import context_bytes
from llamacart.llama.tap import Tap
from llamacart.passes.batching import (
    ROWS_PER_DECODE,
    Tree,
    as_batch,
    fillings,
    rows_beside,
    rows_of,
    slices,
)
from llamacart.passes.watching import computed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart.llama.tap import Beside, Visitor
    from llamacart.passes.batching import Row

LOGITS_BUDGET = 1024 * 2**20
"""Bytes that llama.cpp may reserve for logits nobody reads (see `forward`); it does so twice."""


@dataclass(frozen=True)
class _Limits:
    """Those of the context that a forward pass runs in; see `Context`."""

    n_ctx: int
    n_batch: int
    n_seq_max: int
    n_outputs: int


def row_numbers(
    sequences: Sequence[Sequence[int]], *, shared: bool = False
) -> list[NDArray[np.int64]]:
    """Number of each sequence's rows among those of all, [T] for each.

    Sequence 0's tokens come first, then sequence 1's, and so on.

    Args:
        sequences: Token ids.
        shared: Whether what several sequences begin with is computed once: the rows of it have one
            number, where they are first met. The last row of each sequence is its own.
    """
    if shared:
        tree = Tree()
        return [np.array(tree.add(sequence), np.int64) for sequence in sequences]
    return [np.arange(*ends) for ends in pairwise(row_offsets(sequences).tolist())]


def count_rows(sequences: Sequence[Sequence[int]], *, shared: bool = False) -> int:
    """Rows of all sequences together, numbered as by `row_numbers`."""
    if not shared:
        return sum(map(len, sequences))
    tree = Tree()
    for sequence in sequences:
        tree.add(sequence)
    return tree.n_rows


def together(
    sequences: Sequence[Sequence[int]],
    wants: Callable[[int, int], bool],
    *,
    shared: bool = False,
) -> list[Row]:
    """The rows of all sequences, numbered as by `row_numbers`.

    Args:
        sequences: Token ids.
        wants: Whether logits are wanted after a row, by number of the sequence and position.
        shared: Whether what several sequences begin with is there once.
    """
    of_run = rows_beside if shared else rows_of
    return of_run(sequences, range(len(sequences)), wants)


def row_offsets(sequences: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """First row of each of n sequences, and behind them the number of all rows, [n + 1]."""
    return np.cumsum([0, *map(len, sequences)], dtype=np.int64)


def output_budget(model: Model) -> int:
    """Rows whose last layer fits `LOGITS_BUDGET`."""
    return max(1, LOGITS_BUDGET // (8 * model.n_vocab))


def forward_bytes(
    model: Model,
    sequences: Sequence[Sequence[int]],
    layers: Iterable[int],
    *,
    shared: bool = False,
) -> int:
    """Upper estimate of what `forward` takes where it need not put all rows in one ubatch."""
    limits = _limits(model, sequences, whole=model.n_layer - 1 in layers, shared=shared)
    return context_bytes(
        model,
        n_ctx=limits.n_ctx,
        n_ubatch=limits.n_batch,
        n_seq_max=limits.n_seq_max,
        n_outputs=limits.n_outputs,
    ) + (4 * limits.n_batch * (model.n_ff + model.n_embd) if model.uses_device else 0)


def forward(
    model: Model,
    sequences: Sequence[Sequence[int]],
    visitor: Visitor,
    *,
    layers: Iterable[int],
    shared: bool = False,
    n_threads: int | None = None,
    node: str | None = None,
    beside: Beside | None = None,
    ends_only: bool = False,
    logits: Callable[[int, NDArray[np.float32]], None] | None = None,
    reads_only: bool = False,
    copy: bool = False,
) -> None:
    """Show `visitor` the gated product of the given layers for all rows of all sequences.

    llama.cpp computes the last layer only for rows whose logits are asked for, and reserves
    n_vocab floats for each. Where the last layer is wanted the rows therefore go in slices that
    keep this under `LOGITS_BUDGET`; the logits themselves are computed only where somebody reads
    them, because nothing after the last wanted layer is.

    Args:
        model: The model.
        sequences: Token ids, each a sequence of its own from position 0.
        visitor: Called with (layer, rows [T], h [T, D]); rows are numbered over all sequences,
            as by `row_numbers`.
            May write to h; returning False ends the current slice.
        layers: Layers wanted.
        shared: Whether what several sequences begin with is computed and shown once; all rows then
            are in the KV cache at the same time.
        n_threads: Threads for compute.
        node: Node to show instead; None means the gated product.
        beside: Another node of each layer and its reader; see `Tap`.
        ends_only: Show the last layer for the last row of each sequence alone, which costs no
            more logits than llama.cpp reserves anyway.
        logits: With `ends_only`, called for each sequence, in order, with its number and the
            logits [V] behind its last row, valid during the call.
        reads_only: The visitor does not write to h.
        copy: See `Tap`.
    """
    wanted = set(layers)
    last = max(wanted)
    final_layer = model.n_layer - 1
    if any(len(sequence) == 0 for sequence in sequences) or not sequences:
        raise InputError("a sequence without tokens cannot be run")
    whole = final_layer in wanted and not ends_only
    limits = _limits(model, sequences, whole=whole, shared=shared)
    offset = 0

    def shifted(layer: int, rows: NDArray[np.int64], h: NDArray[np.float32]) -> bool:
        go_on = visitor(layer, rows + offset, h)
        return go_on and (layer != last or logits is not None)

    def read(layer: int, rows: NDArray[np.int64], x: NDArray[np.float32]) -> None:
        if beside is not None:
            beside[1](layer, rows + offset, x)

    other = (beside[0], read) if beside else None
    tap = Tap(
        model,
        shifted,
        node=node,
        beside=other,
        reads_only=reads_only,
        lags=reads_only,
        copy=copy,
    )
    tap.wanted = wanted
    with Context(
        model,
        n_ctx=limits.n_ctx,
        n_batch=limits.n_batch,
        n_seq_max=limits.n_seq_max,
        n_outputs=limits.n_outputs,
        n_threads=n_threads,
        hook=tap,
    ) as context:
        runs = [range(len(sequences))] if shared else fillings(sequences, limits.n_ctx)
        for run in runs:
            context.clear()
            part = [sequences[number] for number in run]
            ends = [len(sequence) - 1 for sequence in part] if ends_only else [-1] * len(part)

            def wants(number: int, row: int, ends: list[int] = ends) -> bool:
                return whole or row == ends[number]

            for rows in slices(together(part, wants, shared=shared), limits.n_batch):
                context.decode(as_batch(rows))
                offset += len(rows)
                computed(len(rows))
                for place, row in enumerate(rows if logits is not None else ()):
                    if logits is not None and row.output:
                        logits(run.start + row.sequence, context.logits(place))


def capture(
    model: Model,
    sequences: Sequence[Sequence[int]],
    *,
    layers: Iterable[int] | None = None,
    rows: NDArray[np.integer] | None = None,
    n_threads: int | None = None,
    node: str | None = None,
    copy: bool = False,
) -> dict[int, NDArray[np.float32]]:
    """Activations of chosen layers and rows.

    Args:
        model: The model.
        sequences: Token ids of each text.
        layers: Layers to keep; None means all.
        rows: Rows to keep, ascending, numbered over all sequences; None means all.
        n_threads: Threads for compute.
        node: Node of the residual stream's width to capture instead of the gated product.
        copy: See `Tap`.

    Returns:
        For each layer an array [N, D], in the order of `rows`; D is the node's width.
    """
    chosen = sorted(set(range(model.n_layer) if layers is None else layers))
    total = sum(map(len, sequences))
    kept = np.arange(total) if rows is None else np.asarray(rows, np.int64)
    place = np.full(total, -1, np.int64)
    place[kept] = np.arange(len(kept))
    width = model.n_ff if node is None else model.n_embd
    out = {layer: np.zeros((len(kept), width), np.float32) for layer in chosen}

    def keep(layer: int, seen: NDArray[np.int64], h: NDArray[np.float32]) -> bool:
        target = place[seen]
        out[layer][target[target >= 0]] = h[target >= 0]
        return True

    forward(
        model,
        sequences,
        keep,
        layers=chosen,
        n_threads=n_threads,
        node=node,
        reads_only=True,
        copy=copy,
    )
    return out


def _limits(
    model: Model, sequences: Sequence[Sequence[int]], *, whole: bool, shared: bool
) -> _Limits:
    longest, total = max(map(len, sequences)), count_rows(sequences, shared=shared)
    n_ctx = total if shared else max(longest, min(total, ROWS_PER_DECODE))
    n_batch = min(n_ctx, ROWS_PER_DECODE)
    if whole:
        n_batch = min(n_batch, output_budget(model))
    n_seq_max = len(sequences) if shared else max(map(len, fillings(sequences, n_ctx)))
    return _Limits(n_ctx, n_batch, n_seq_max, n_batch if whole else n_seq_max)
