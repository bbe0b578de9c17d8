"""How sequences of tokens are cut into decodes: which share the KV cache, which rows go together.

The order of rows is always that of the sequences and of their tokens. What a decode holds decides
in which order llama.cpp sums, so that these rules are part of every result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llamacart.llama.context import MAX_SEQUENCES
from llamacart.values.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ROWS_PER_DECODE = 512
"""Rows of one decode; more gain nothing."""


class Row(NamedTuple):
    """One token to be computed.

    Attributes:
        sequence: Number of its sequence among all.
        position: Place in the sequence.
        token: Its id.
        output: Whether logits are wanted after it.
    """

    sequence: int
    position: int
    token: int
    output: bool


def fillings(
    sequences: Sequence[Sequence[int]], n_cells: int, most: int = MAX_SEQUENCES
) -> Iterator[range]:
    """Runs of whole sequences that fit a KV cache of `n_cells` together.

    Args:
        sequences: At least one; a longer one than the cache is a run of its own.
        n_cells: Rows that the cache holds.
        most: Most sequences of a run.
    """
    start = used = 0
    for number, sequence in enumerate(sequences):
        if number > start and (used + len(sequence) > n_cells or number - start == most):
            yield range(start, number)
            start, used = number, 0
        used += len(sequence)
    yield range(start, len(sequences))


def shared_beginning(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens that all sequences begin with; each keeps one token of its own at least.

    Args:
        sequences: Each at least one token.
    """
    if not sequences:
        return 0
    first, last = min(map(tuple, sequences)), max(map(tuple, sequences))
    most = min(map(len, sequences)) - 1
    pairs = enumerate(zip(first, last, strict=False))
    return min(most, next((n for n, (a, b) in pairs if a != b), most))


def rows_of(
    sequences: Sequence[Sequence[int]],
    run: range,
    wants: Callable[[int, int], bool],
    start: int = 0,
) -> list[Row]:
    """The rows of a run of sequences.

    Args:
        sequences: Token ids of all sequences.
        run: Numbers of those to take.
        wants: Whether logits are wanted after a row, by number of the sequence and position.
        start: Position of the first row of each that is taken.
    """
    return [
        Row(s, i, sequences[s][i], wants(s, i))
        for s in run
        for i in range(start, len(sequences[s]))
    ]


def rows_beside(
    sequences: Sequence[Sequence[int]], shared: int, wants: Callable[[int, int], bool]
) -> list[Row]:
    """The rows of sequences that run together, what they begin with only once.

    Args:
        sequences: Token ids.
        shared: Tokens that all of them begin with; see `Batch.shared`.
        wants: As in `rows_of`.
    """
    head = rows_of([sequences[0][:shared]], range(1), wants)
    return head + rows_of(sequences, range(len(sequences)), wants, shared)


def slices(
    rows: Iterable[Row], max_rows: int, max_outputs: int | None = None
) -> Iterator[list[Row]]:
    """Rows in parts that one decode takes, each as long as the limits allow.

    Args:
        rows: In order.
        max_rows: Most rows of a part.
        max_outputs: Most rows with logits of a part; None means any.
    """
    part: list[Row] = []
    outputs = 0
    for row in rows:
        if len(part) == max_rows or (row.output and outputs == max_outputs):
            yield part
            part, outputs = [], 0
        part.append(row)
        outputs += row.output
    if part:
        yield part


def as_batch(rows: Sequence[Row], first: int = 0, shared: int = 0) -> Batch:
    """The batch of one decode.

    Args:
        rows: Its rows.
        first: Number of the sequence that is the context's sequence 0.
        shared: Rows, from the first one on, that belong to all of the context's sequences.
    """
    return Batch(
        tokens=[row.token for row in rows],
        positions=[row.position for row in rows],
        sequences=[row.sequence - first for row in rows],
        outputs=[row.output for row in rows],
        shared=shared,
    )
