"""The rows of one step, and how sequences share them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacart.values.batch import RunBatch

if TYPE_CHECKING:
    from collections.abc import Sequence as SequenceOf
    from typing import Self

    from llamacart.values.steering import Steering
    from llamacart_server.engine.kv.actions import Action
    from llamacart_server.engine.sequence import Sequence


@dataclass(frozen=True)
class Chunk:
    """Tokens start..stop−1 of one sequence, to be computed in one step.

    Attributes:
        sequence: Whose tokens.
        start: First position.
        stop: Position after the last.
        output: Whether the last row is the newest known token, so that the next one can be
            sampled.
        scored: Positions whose logits are read for the prompt's log-probabilities.
    """

    sequence: Sequence
    start: int
    stop: int
    output: bool
    scored: range = range(0)

    @classmethod
    def of(cls, sequence: Sequence, n_rows: int) -> Self:
        """The next rows of a sequence."""
        start, stop = sequence.n_computed, sequence.n_computed + n_rows
        output = n_rows == sequence.n_pending
        return cls(sequence, start, stop, output, sequence.scored_in(start, stop))

    @property
    def n_rows(self) -> int:
        """Rows in the batch."""
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """What one step computes; the rows of a chunk lie side by side, chunks in order.

    Attributes:
        chunks: Whose rows.
        actions: To be done first, so that there are cells for them.
    """

    chunks: tuple[Chunk, ...]
    actions: tuple[Action, ...] = ()

    @property
    def n_rows(self) -> int:
        """T, rows in all."""
        return sum(chunk.n_rows for chunk in self.chunks)

    def still_running(self) -> Plan:
        """Without chunks of sequences that have lost their slot since."""
        return Plan(tuple(chunk for chunk in self.chunks if chunk.sequence.slot is not None))

    def batch(self) -> RunBatch:
        """The rows as parallel lists."""
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        outputs: list[bool] = []
        steerings: list[Steering] = []
        observed: list[bool] = []
        for chunk in self.chunks:
            sequence = chunk.sequence
            if sequence.slot is None:
                raise ValueError("a planned sequence has no slot")
            places = range(chunk.start, chunk.stop)
            tokens.extend(sequence.tokens[chunk.start : chunk.stop])
            positions.extend(places)
            sequences.extend([sequence.slot] * chunk.n_rows)
            outputs.extend(
                place in chunk.scored or (chunk.output and place == chunk.stop - 1)
                for place in places
            )
            steerings.extend(sequence.steering_at(place) for place in places)
            observed.extend(sequence.measures(place) for place in places)
        observation = observed if any(observed) else None
        return RunBatch(tokens, positions, sequences, outputs, steerings, observation)


def fair_shares(needs: SequenceOf[int], budget: int, turn: int = 0) -> list[int]:
    """Split `budget` rows so that nobody in need gets less than another, but for one row.

    Args:
        needs: Rows each could use.
        budget: Rows there are.
        turn: Which of those in need is first to get a row that cannot be split.
    """
    shares = [0] * len(needs)
    left = min(budget, sum(needs))
    while left:
        hungry = [i for i, need in enumerate(needs) if shares[i] < need]
        level = left // len(hungry)
        if level == 0:
            for k in range(left):
                shares[hungry[(turn + k) % len(hungry)]] += 1
            return shares
        for i in hungry:
            share = min(level, needs[i] - shares[i])
            shares[i] += share
            left -= share
    return shares
