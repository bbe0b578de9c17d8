"""Which rows run in the next step, who is admitted and who is turned away. Knows no model."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacart.errors import ContextOverflowError, InputError, OverloadedError
from llamacart.runner import RunBatch
from llamacart_server.sequence import Sequence, SequenceState

if TYPE_CHECKING:
    from collections.abc import Sequence as SequenceOf

    from llamacart.steering import Steering
    from llamacart_server.request import GenerationRequest


@dataclass(frozen=True)
class SchedulerConfig:
    """Limits of the scheduler.

    Attributes:
        n_ctx: KV cells in all.
        n_batch: Most rows in a step.
        n_sequences: Sequences that run at once.
        prefill_rows: Most prompt rows in a step in which others decode, which bounds how long
            a decoding sequence waits for its next token; None means a quarter of `n_batch`.
        max_queued: Requests that may wait.
        max_queued_tokens: Prompt tokens that may wait.
    """

    n_ctx: int
    n_batch: int
    n_sequences: int
    prefill_rows: int | None = None
    max_queued: int = 64
    max_queued_tokens: int = 65_536

    def __post_init__(self) -> None:
        if not 1 <= self.n_sequences <= self.n_batch:
            raise InputError(
                f"n_sequences has value {self.n_sequences}; 1 to n_batch = {self.n_batch} is needed"
            )
        if self.prefill_rows is not None and self.prefill_rows < 1:
            raise InputError(f"prefill_rows has value {self.prefill_rows}; at least 1 is needed")


@dataclass(frozen=True)
class Chunk:
    """Tokens start..stop−1 of one sequence, to be computed in one step.

    Attributes:
        sequence: Whose tokens.
        start: First position.
        stop: Position after the last.
        output: Whether the last row is the newest known token, so that a token is sampled.
    """

    sequence: Sequence
    start: int
    stop: int
    output: bool

    @property
    def n_rows(self) -> int:
        """Rows in the batch."""
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """What one step computes; the rows of a chunk lie side by side, chunks in order."""

    chunks: tuple[Chunk, ...]

    @property
    def n_rows(self) -> int:
        """T, rows in all."""
        return sum(chunk.n_rows for chunk in self.chunks)

    def batch(self) -> RunBatch:
        """The rows as parallel lists."""
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        outputs: list[bool] = []
        steerings: list[Steering] = []
        for chunk in self.chunks:
            sequence = chunk.sequence
            if sequence.slot is None:
                raise ValueError("a planned sequence has no slot")
            places = range(chunk.start, chunk.stop)
            tokens.extend(sequence.tokens[chunk.start : chunk.stop])
            positions.extend(places)
            sequences.extend([sequence.slot] * chunk.n_rows)
            outputs.extend(chunk.output and place == chunk.stop - 1 for place in places)
            steerings.extend(sequence.steering_at(place) for place in places)
        return RunBatch(tokens, positions, sequences, outputs, steerings)


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


class Scheduler:
    """Continuous batching over a fixed number of slots and KV cells.

    Sequences are admitted in order of arrival. One that cannot be admitted holds back those
    behind it, so that small requests cannot starve a large one. Not thread-safe.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._free_slots = list(range(config.n_sequences))
        self._turn = 0
        self.queued_tokens = 0
        self.n_reserved = 0

    # --- state ------------------------------------------------------------------------------

    @property
    def n_queued(self) -> int:
        """Sequences that wait."""
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        """Sequences that have a slot."""
        return len(self._running)

    @property
    def has_work(self) -> bool:
        """Whether a step would compute rows."""
        return bool(self._running or self._waiting)

    # --- arrivals ---------------------------------------------------------------------------

    def fit_max_tokens(self, request: GenerationRequest) -> int:
        """Most tokens that can be generated after the prompt, at most what was asked.

        Raises:
            ContextOverflowError: The prompt leaves no room for a single one.
            InputError: Less than one was asked for.
        """
        if request.max_tokens < 1:
            raise InputError(
                f"max_tokens has value {request.max_tokens}; at least 1 is needed",
                param="max_tokens",
            )
        room = self._config.n_ctx - len(request.prompt)
        if room < 1:
            raise ContextOverflowError(
                f"the prompt has {len(request.prompt)} tokens, which leaves no room for an answer "
                f"in a context of {self._config.n_ctx}"
            )
        return min(request.max_tokens, room)

    def add(self, sequence: Sequence) -> None:
        """Admit a sequence, or queue it.

        Raises:
            OverloadedError: It would have to wait and the queue is full.
        """
        if not self._waiting and self._can_admit(sequence):
            self._admit(sequence)
            return
        config = self._config
        if len(self._waiting) >= config.max_queued:
            raise OverloadedError(f"the queue is full: {len(self._waiting)} requests wait")
        if self.queued_tokens + sequence.n_prompt > config.max_queued_tokens:
            raise OverloadedError(
                f"the queue is full: {self.queued_tokens} prompt tokens wait, this prompt has "
                f"{sequence.n_prompt}, the limit is {config.max_queued_tokens}"
            )
        self._waiting.append(sequence)
        self.queued_tokens += sequence.n_prompt

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and give back what it holds."""
        if sequence.state is SequenceState.WAITING:
            self._waiting.remove(sequence)
            self.queued_tokens -= sequence.n_prompt
        elif sequence.slot is not None:
            self._running.remove(sequence)
            heapq.heappush(self._free_slots, sequence.slot)
            sequence.slot = None
            self.n_reserved -= sequence.n_reserved
        sequence.state = SequenceState.FINISHED

    def _can_admit(self, sequence: Sequence) -> bool:
        room = self._config.n_ctx - self.n_reserved
        return bool(self._free_slots) and sequence.n_reserved <= room

    def _admit(self, sequence: Sequence) -> None:
        sequence.slot = heapq.heappop(self._free_slots)
        sequence.state = SequenceState.PREFILL
        self._running.append(sequence)
        self.n_reserved += sequence.n_reserved

    # --- steps ------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Admit who fits and choose the rows of the next step.

        Every decoding sequence gets its row; those in prefill share the rest equally, of
        which there is less while others decode.
        """
        while self._waiting and self._can_admit(self._waiting[0]):
            sequence = self._waiting.popleft()
            self.queued_tokens -= sequence.n_prompt
            self._admit(sequence)
        decoding = [s for s in self._running if s.state is SequenceState.DECODING]
        prefilling = [s for s in self._running if s.state is SequenceState.PREFILL]
        shares = fair_shares(
            [s.n_pending for s in prefilling], self._prefill_budget(len(decoding)), self._turn
        )
        self._turn += bool(prefilling)
        rows = [(s, 1) for s in decoding]
        rows += [(s, share) for s, share in zip(prefilling, shares, strict=True) if share]
        return Plan(
            tuple(Chunk(s, s.n_computed, s.n_computed + n, n == s.n_pending) for s, n in rows)
        )

    def _prefill_budget(self, n_decoding: int) -> int:
        config = self._config
        if not n_decoding:
            return config.n_batch
        limit = max(1, config.n_batch // 4) if config.prefill_rows is None else config.prefill_rows
        return min(limit, config.n_batch - n_decoding)
