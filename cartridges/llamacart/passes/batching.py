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
        also: Numbers of other sequences that begin with the same tokens, and share it.
    """

    sequence: int
    position: int
    token: int
    output: bool
    also: tuple[int, ...] = ()


class Tree:
    """Rows of sequences that run together: what several of them begin with is one row.

    Rows are numbered in the order of sequences and of their tokens, each where it is first met. The
    last row of a sequence is always its own.
    """

    def __init__(self) -> None:
        self.n_rows = 0
        self._after: dict[tuple[int, int], int] = {}

    def add(self, sequence: Sequence[int], most: int | None = None) -> list[int]:
        """Numbers of a sequence's rows.

        Args:
            sequence: Token ids.
            most: Rows that it may share; None means all but the last.
        """
        most = len(sequence) - 1 if most is None else most
        numbers: list[int] = []
        for token in sequence[:most]:
            place = (numbers[-1] if numbers else -1, token)
            number = self._after.setdefault(place, self.n_rows)
            self.n_rows += number == self.n_rows
            numbers.append(number)
        own = range(self.n_rows, self.n_rows + len(sequence) - most)
        self.n_rows = own.stop
        return [*numbers, *own]

    def missing(self, sequence: Sequence[int]) -> int:
        """How many rows there are more with another sequence."""
        number = -1
        for position, token in enumerate(sequence[:-1]):
            found = self._after.get((number, token))
            if found is None:
                return len(sequence) - position
            number = found
        return 1


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
    sequences: Sequence[Sequence[int]],
    run: range,
    wants: Callable[[int, int], bool],
    start: int = 0,
    most: Sequence[int] | None = None,
) -> list[Row]:
    """The rows of a run of sequences, what several of them begin with only once; see `Tree`.

    Args:
        sequences: Token ids of all sequences.
        run: Numbers of those to take.
        wants: As in `rows_of`; asked of the first sequence that has a row.
        start: Position of the first row of each that is taken.
        most: For each sequence how many of its first rows it may share, counted from its
            beginning; None means all but the last.
    """
    tree, rows = Tree(), list[Row]()
    also: dict[int, list[int]] = {}
    for s in run:
        shared = None if most is None else max(0, most[s] - start)
        for i, number in enumerate(tree.add(sequences[s][start:], shared), start):
            if number == len(rows):
                rows.append(Row(s, i, sequences[s][i], wants(s, i)))
            else:
                also.setdefault(number, []).append(s)
    for number, others in also.items():
        rows[number] = rows[number]._replace(also=tuple(others))
    return rows


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


def as_batch(rows: Sequence[Row], first: int = 0) -> Batch:
    """The batch of one decode.

    Args:
        rows: Its rows.
        first: Number of the sequence that is the context's sequence 0.
    """
    return Batch(
        tokens=[row.token for row in rows],
        positions=[row.position for row in rows],
        sequences=[row.sequence - first for row in rows],
        outputs=[row.output for row in rows],
        also={
            place: [other - first for other in row.also]
            for place, row in enumerate(rows)
            if row.also
        },
    )
