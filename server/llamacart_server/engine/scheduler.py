"""Who is admitted, who computes which rows next, and who must give way. Knows no model."""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING

from llamacart.errors import ContextOverflowError, InputError, OverloadedError
from llamacart_server.engine.kv.actions import Restore
from llamacart_server.engine.kv.host_tier import HostEntry
from llamacart_server.engine.kv.prefix_cache import PrefixCache
from llamacart_server.engine.plan import Chunk, Plan, fair_shares
from llamacart_server.engine.sequence import SequenceState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llamacart_server.engine.kv.actions import Action, Reuse
    from llamacart_server.engine.kv.prefix_cache import Match
    from llamacart_server.engine.kv.rows import Rows
    from llamacart_server.engine.limits import SchedulerConfig
    from llamacart_server.engine.request import GenerationRequest
    from llamacart_server.engine.sequence import Sequence

HEADROOM = 32
"""Generated tokens for which a sequence must find cells when it is admitted."""

MAX_RESETS = 3
"""Times that a sequence is computed again after all rows were lost; then it is given up, so that
a runner that always fails keeps nobody waiting."""

MIN_AWAITED_ROWS = 32
"""Rows that must be saved by waiting for a sequence that is about to compute them."""


class Scheduler:
    """Continuous batching over a fixed number of slots and KV cells. Not thread-safe.

    Sequences are admitted in order of arrival as soon as there are cells for the tokens they
    have and a few more. One that cannot be admitted holds back those behind it, so that small
    requests cannot starve a large one; one that waits for an older sequence to compute rows it
    can share does not. Where cells run out, the youngest running sequence gives way and
    is computed again later; the oldest never does, so that every sequence comes to its end.

    A step is `admit`, the actions it returns (`lost` for each that failed), `plan`, its actions,
    and the rows of its chunks. `remove` returns actions as well. Actions are to be done in order.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        self._cache = PrefixCache(
            config.n_ctx,
            config.n_sequences + config.n_cached,
            config.n_cached,
            config.host_cache_bytes,
            ordered=config.ordered,
        )
        self._waiting: list[Sequence] = []  # in order of arrival
        self._running: list[Sequence] = []
        self._awaited: dict[Sequence, tuple[Sequence, int]] = {}
        self._n_arrived = 0
        self._turn = 0
        self.n_preempted = 0

    # --- state ------------------------------------------------------------------------------

    @property
    def n_queued(self) -> int:
        """Sequences that wait."""
        return len(self._waiting)

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens of sequences that wait."""
        return sum(sequence.n_prompt for sequence in self._waiting)

    @property
    def waiting_cartridges(self) -> tuple[str, ...]:
        """Names of the cartridges of sequences that wait, ascending."""
        return tuple(sorted({c.name for s in self._waiting for c in s.cartridges}))

    @property
    def n_running(self) -> int:
        """Sequences that have a slot."""
        return len(self._running)

    @property
    def has_work(self) -> bool:
        """Whether a step would compute rows."""
        return bool(self._running or self._waiting)

    @property
    def kv_used(self) -> int:
        """KV cells in use, each counted once."""
        return self._cache.ledger.n_used

    @property
    def kv_cached(self) -> int:
        """KV cells that only idle entries hold."""
        return self._cache.ledger.n_idle

    @property
    def cached_entries(self) -> int:
        """Idle entries in slots."""
        return self._cache.n_entries

    @property
    def host_bytes(self) -> int:
        """Host memory that entries take."""
        return self._cache.host.n_bytes

    # --- arrivals and departures ------------------------------------------------------------

    def fit_max_tokens(self, request: GenerationRequest) -> int:
        """Most tokens that can be generated after the prompt, at most what was asked.

        Raises:
            ContextOverflowError: The prompt leaves no room for a single one.
            InputError: Less than one was asked for, or less than none where only the prompt's
                log-probabilities are wanted.
        """
        least = 0 if request.prompt_logprobs else 1
        if request.max_tokens < least:
            raise InputError(
                f"max_tokens has value {request.max_tokens}; at least {least} is needed",
                param="max_tokens",
            )
        room = self._config.n_ctx - len(request.prompt)
        if room < min(request.max_tokens, 1):
            raise ContextOverflowError(
                # In OpenAI's words, by which clients (litellm) know the case.
                f"This model's maximum context length is {self._config.n_ctx} tokens; the "
                f"prompt has {len(request.prompt)}, which leaves no room for an answer"
            )
        return min(request.max_tokens, room)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. One that can run in the next step does not count against the caps.

        Raises:
            OverloadedError: It would have to wait and the queue is full.
        """
        if not self._can_start(sequence):
            self._check_caps(sequence)
            sequence.counted = True
        sequence.arrival = self._n_arrived
        self._n_arrived += 1
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence, *, keep: bool = False) -> tuple[Action, ...]:
        """Take a sequence out, wherever it is, and give back what it holds.

        Args:
            sequence: Finished, cancelled or failed.
            keep: Leave its computed rows in the prefix cache.
        """
        self._awaited.pop(sequence, None)
        if sequence.state is SequenceState.WAITING:
            self._waiting.remove(sequence)
        elif sequence.slot is not None:
            self._running.remove(sequence)
            self._cache.close(sequence.slot, _computed(sequence) if keep else None)
            sequence.slot = None
        sequence.state = SequenceState.FINISHED
        return self._cache.take_actions()

    def emptied(self, slots: Iterable[int]) -> list[Sequence]:
        """Forget what was in slots that have lost their rows; returns whose rows those were."""
        wanted = set(slots)
        self._cache.forget(wanted)
        return [s for s in self._running if s.slot in wanted and s.n_computed]

    def reset(self) -> list[Sequence]:
        """All rows of all slots are gone: whoever runs waits again, to be computed anew.

        Returns:
            Those for whom it was once too often; they are still to be removed.
        """
        self._cache.reset()
        for sequence in list(self._running):
            self._requeue(sequence)
            sequence.n_resets += 1
        return [sequence for sequence in self._waiting if sequence.n_resets > MAX_RESETS]

    def clear_cache(self) -> tuple[Action, ...]:
        """Drop every idle entry."""
        self._cache.clear()
        return self._cache.take_actions()

    def _can_start(self, sequence: Sequence) -> bool:
        expected = [*self._waiting, sequence]
        demand = self._demand() + sum(len(s.tokens) + _headroom(s) for s in expected)
        n_expected = len(self._running) + len(expected)
        return n_expected <= self._config.n_sequences and demand <= self._supply()

    def _check_caps(self, sequence: Sequence) -> None:
        config = self._config
        counted = [other.n_prompt for other in self._waiting if other.counted]
        if len(counted) >= config.max_queued:
            raise OverloadedError(f"the queue is full: {len(counted)} requests wait")
        if sum(counted) + sequence.n_prompt > config.max_queued_tokens:
            raise OverloadedError(
                f"the queue is full: {sum(counted)} prompt tokens wait, this prompt has "
                f"{sequence.n_prompt}, the limit is {config.max_queued_tokens}"
            )

    # --- admission --------------------------------------------------------------------------

    def admit(self) -> tuple[Action, ...]:
        """Give slots to those whose turn it is."""
        for sequence in list(self._waiting):
            if len(self._running) >= self._config.n_sequences:
                break
            if self._still_awaits(sequence):
                continue
            rows = sequence.rows(len(sequence.tokens))
            running = ((_slot(s), _computed(s)) for s in self._running)
            match = self._cache.match(rows, running, sequence.n_reusable)
            if self._awaits(sequence, rows, match):
                continue
            if not self._fits(sequence, match):
                break
            self._start(sequence, match)
        return self._cache.take_actions()

    def lost(self, action: Reuse) -> None:
        """An action failed and left its sequence's slot empty: it is computed from nothing."""
        sequence = action.sequence
        sequence.n_computed = sequence.n_cached = 0
        self._cache.ledger.clear(_slot(sequence))
        if isinstance(action, Restore):
            self._cache.host.discard(action.entry)

    def saved(self, rows: Rows, state: bytes) -> None:
        """An evicted entry's rows are in host memory."""
        self._cache.host.add(HostEntry(rows, state))

    def _still_awaits(self, sequence: Sequence) -> bool:
        leader, n = self._awaited.get(sequence, (None, 0))
        if leader and leader.state is SequenceState.PREFILL and leader.n_computed < n:
            return True
        self._awaited.pop(sequence, None)
        return False

    def _awaits(self, sequence: Sequence, rows: Rows, match: Match) -> bool:
        """Whether an older sequence is about to compute many rows that this one can share."""
        if not self._cache.enabled:
            return False
        for leader in self._running:
            # Only the older is waited for, so that two never wait for each other.
            if leader.state is SequenceState.PREFILL and leader.arrival < sequence.arrival:
                common = rows.common(leader.rows(len(leader.tokens)))
                n = min(common, sequence.n_reusable)
                if n >= match.n + MIN_AWAITED_ROWS:
                    self._awaited[sequence] = (leader, n)
                    return True
        return False

    def _fits(self, sequence: Sequence, match: Match) -> bool:
        n_new = len(sequence.tokens) - match.n + _headroom(sequence)
        return self._demand() + n_new + self._cache.cost(match) <= self._supply()

    def _demand(self) -> int:
        """Cells that running sequences want, for what they know and a few tokens more."""
        return sum(s.n_pending + _headroom(s) for s in self._running)

    def _supply(self) -> int:
        """Cells that are free, or would be without idle entries."""
        return self._cache.ledger.n_free + self._cache.ledger.n_evictable

    def _start(self, sequence: Sequence, match: Match) -> None:
        self._waiting.remove(sequence)
        sequence.counted = False
        sequence.slot = self._cache.open(sequence, match)
        sequence.state = SequenceState.PREFILL
        sequence.n_computed = match.n
        sequence.n_cached = min(match.n, sequence.n_prompt)
        self._running.append(sequence)

    # --- steps ------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Choose the rows of the next step and make room for them.

        Every decoding sequence gets its row; those in prefill share the rest equally, of
        which there is less while others decode, or where cells are short. One whose prompt is
        scored gets no more rows than there are outputs for.
        """
        self._cache.tidy()
        while not self._cache.make_room(self._least_rows()):
            self._preempt(max(self._running, key=lambda s: s.arrival))
        decoding, prefilling = self._by_state()
        needs = self._needs(prefilling)
        budget = min(self._prefill_budget(len(decoding)), sum(needs))
        self._cache.make_room(len(decoding) + budget)
        budget = min(budget, self._cache.ledger.n_free - len(decoding))
        shares = fair_shares(needs, budget, self._turn)
        self._turn += bool(prefilling)
        rows = [(s, 1) for s in decoding]
        rows += [(s, share) for s, share in zip(prefilling, shares, strict=True) if share]
        for sequence, n in rows:
            self._cache.ledger.extend(_slot(sequence), n)
        chunks = tuple(Chunk.of(sequence, n) for sequence, n in rows)
        return Plan(chunks, self._cache.take_actions())

    def _needs(self, prefilling: list[Sequence]) -> list[int]:
        """Rows that each sequence in prefill could have in a step.

        A step has as many outputs as sequences may run. One is kept for each that runs, for its
        next token; those that score prompts share the others.
        """
        spare = self._config.n_sequences - len(self._running)
        shares = fair_shares([s.n_to_score for s in prefilling], spare, self._turn)
        return [s.rows_with(1 + more) for s, more in zip(prefilling, shares, strict=True)]

    def _by_state(self) -> tuple[list[Sequence], list[Sequence]]:
        decoding = [s for s in self._running if s.state is SequenceState.DECODING]
        prefilling = [s for s in self._running if s.state is SequenceState.PREFILL]
        return decoding, prefilling

    def _least_rows(self) -> int:
        """Rows that a step must have: one for each that decodes, one for prefill."""
        decoding, prefilling = self._by_state()
        return len(decoding) + bool(prefilling)

    def _preempt(self, sequence: Sequence) -> None:
        self._cache.expel(_slot(sequence), _computed(sequence))
        self._requeue(sequence)
        self.n_preempted += 1

    def _requeue(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        sequence.slot = None
        sequence.n_computed = sequence.n_cached = 0
        sequence.state = SequenceState.WAITING
        insort(self._waiting, sequence, key=lambda s: s.arrival)

    def _prefill_budget(self, n_decoding: int) -> int:
        config = self._config
        if not n_decoding:
            return config.n_batch
        limit = max(1, config.n_batch // 4) if config.prefill_rows is None else config.prefill_rows
        return min(limit, config.n_batch - n_decoding)


def _slot(sequence: Sequence) -> int:
    if sequence.slot is None:
        raise ValueError("the sequence does not run")
    return sequence.slot


def _computed(sequence: Sequence) -> Rows:
    return sequence.rows(sequence.n_computed)


def _headroom(sequence: Sequence) -> int:
    return min(sequence.max_tokens - sequence.n_generated, HEADROOM)
