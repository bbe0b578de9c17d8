"""Which slot holds which rows: running sequences, and finished ones kept for reuse."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacart_server.engine.kv.actions import Action, Compact, Copy, Free, Restore, Save, Trim
from llamacart_server.engine.kv.cells import CellLedger
from llamacart_server.engine.kv.host_tier import HostEntry, HostTier

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llamacart_server.engine.kv.rows import Rows
    from llamacart_server.engine.sequence import Sequence

MIN_REUSED_ROWS = 4
"""Fewer rows are computed again sooner than they are found and copied."""


MIN_DEAD = 1024
"""Dead cells from which on compacting pays."""


@dataclass(frozen=True)
class Match:
    """The most of a newcomer's first rows that exist already; the default is none.

    Attributes:
        n: Rows.
        slot: Slot that holds them.
        entry: Host entry that holds them, where no slot does.
        whole: Whether they are all that an idle slot holds, which can be taken over.
    """

    n: int = 0
    slot: int | None = None
    entry: HostEntry | None = None
    whole: bool = False


class PrefixCache:
    """Slots, their cells, and idle entries: rows of sequences that no longer run.

    A row is reused for a row with the same tokens and steering keys up to and including it. What
    must be done to the runner is gathered in order; `take_actions` hands it over.

    Args:
        n_cells: KV cells.
        n_slots: Slots.
        n_idle: Most idle entries; 0 turns all reuse off.
        host_bytes: Budget for evicted entries in host memory.
        ordered: Whether the runner keeps cells in order.
    """

    def __init__(
        self,
        n_cells: int,
        n_slots: int,
        n_idle: int,
        host_bytes: int = 0,
        *,
        ordered: bool = False,
    ) -> None:
        self.ledger = CellLedger(n_cells, ordered=ordered)
        self.host = HostTier(host_bytes if n_idle else 0)
        self._n_idle = n_idle
        self._idle: dict[int, Rows] = {}  # by slot, least recently used first
        self._n_slots = n_slots
        self._free_slots = list(range(n_slots))
        self._actions: list[Action] = []

    @property
    def enabled(self) -> bool:
        """Whether rows are reused at all."""
        return self._n_idle > 0

    @property
    def n_entries(self) -> int:
        """Idle entries in slots."""
        return len(self._idle)

    def take_actions(self) -> tuple[Action, ...]:
        """What is to be done to the runner since the last call."""
        actions, self._actions = self._actions, []
        return tuple(actions)

    # --- lookup -----------------------------------------------------------------------------

    def match(
        self, rows: Rows, running: Iterable[tuple[int, Rows]], limit: int | None = None
    ) -> Match:
        """What a newcomer can reuse.

        Args:
            rows: The newcomer's known rows.
            running: Slots of running sequences and the rows computed in them.
            limit: Most rows to reuse; None means all but the last, whose output is wanted.
        """
        if limit is None:
            limit = len(rows) - 1
        best = Match(MIN_REUSED_ROWS - 1)
        if not self.enabled:
            return Match()
        for slot, held in running:
            n = min(held.common(rows), limit)
            if n > best.n:
                best = Match(n, slot)
        for slot, held in self._idle.items():
            common = held.common(rows)
            if min(common, limit) >= max(best.n, MIN_REUSED_ROWS):
                # What is taken over is cut down, so it should not be much longer.
                whole = len(held) == common <= limit + 1
                best = Match(min(common, limit), slot, whole=whole)
        room = self.ledger.n_free + self.ledger.n_evictable
        for entry in self.host:
            n = min(entry.rows.common(rows), limit)
            if n > best.n and len(entry.rows) <= room:
                best = Match(n, entry=entry)
        return best if best.n >= MIN_REUSED_ROWS else Match()

    def cost(self, match: Match) -> int:
        """Cells that can be evicted now and no more once the match is in use."""
        return match.n if match.slot is None else self.ledger.n_unpinned(match.slot, match.n)

    # --- running sequences ------------------------------------------------------------------

    def open(self, sequence: Sequence, match: Match) -> int:
        """Give a sequence a slot with the matched rows in it."""
        if match.slot is not None and match.whole:
            slot = match.slot
            del self._idle[slot]
            self.ledger.pin(slot)
            self._trim(slot, match.n, sequence)
            return slot
        if match.entry is not None:
            self.make_room(len(match.entry.rows))
        slot = heapq.heappop(self._free_slots)
        self.ledger.pin(slot)
        if match.entry is not None:
            self.host.touch(match.entry)
            self.ledger.extend(slot, len(match.entry.rows))
            self._actions.append(Restore(slot, match.entry, sequence))
            self._trim(slot, match.n, sequence)
        elif match.slot is not None:
            self._touch(match.slot)
            self.ledger.copy(match.slot, slot, match.n)
            self._actions.append(Copy(match.slot, slot, match.n, sequence))
        return slot

    def _trim(self, slot: int, n: int, sequence: Sequence) -> None:
        # Asked for even where nothing is cut off: it tells whether the rows are still there.
        self.ledger.trim(slot, n)
        self._actions.append(Trim(slot, n, sequence))

    def close(self, slot: int, rows: Rows | None) -> None:
        """Take a sequence's slot back, as an idle entry unless `rows`, its content, is None."""
        self.ledger.unpin(slot)
        if rows is None or len(rows) < MIN_REUSED_ROWS or not self.enabled:
            self._free(slot)
            return
        longer = next((s for s, held in self._idle.items() if rows.begins(held)), None)
        if longer is not None:
            self._touch(longer)
            self._free(slot)
            return
        for prefix in [s for s, held in self._idle.items() if held.begins(rows)]:
            del self._idle[prefix]
            self._free(prefix)
        self.host.drop_prefixes_of(rows)
        self._idle[slot] = rows
        while len(self._idle) > self._n_idle or self._is_crowded():
            self._evict(next(iter(self._idle)))

    def expel(self, slot: int, rows: Rows) -> None:
        """Take the slot of a preempted sequence back and free its cells, to the host if it may."""
        self.ledger.unpin(slot)
        self._idle[slot] = rows
        self._evict(slot)

    # --- room -------------------------------------------------------------------------------

    def make_room(self, n: int) -> bool:
        """Evict idle entries until `n` cells are free; whether they are."""
        if self.ledger.ordered:
            return self._make_ordered_room(n)
        ledger = self.ledger
        while ledger.n_free < n and ledger.n_evictable:
            # An entry that shares all its cells with running sequences would free none.
            gains = (s for s in self._idle if ledger.n_unpinned(s, ledger.n_rows(s)))
            self._evict(next(gains))
        return ledger.n_free >= n

    def tidy(self) -> None:
        """Compact where many cells are dead: attention goes past each of them at every step."""
        ledger = self.ledger
        if ledger.n_room >= 0 and ledger.n_dead >= max(MIN_DEAD, ledger.n_used // 4):
            self._compact()

    def _is_crowded(self) -> bool:
        # Where cells are in order the model runs on a CPU, whose attention goes past every cell
        # in use at every step.
        ledger = self.ledger
        return ledger.ordered and len(self._idle) > 1 and ledger.n_idle > ledger.n_cells // 4

    def _make_ordered_room(self, n: int) -> bool:
        ledger = self.ledger
        if ledger.n_free >= n:
            return True
        # More than is wanted now, lest the next step compacts again.
        goal = max(n, ledger.n_cells // 4)
        while ledger.n_room < goal and self._idle:
            self._evict(next(iter(self._idle)))
        if ledger.n_room >= n or ledger.n_room - ledger.n_free >= max(1, n // 2):
            self._compact()
        return ledger.n_free >= n

    def _compact(self) -> None:
        self.ledger.compact()
        held = [slot for slot in range(self._n_slots) if self.ledger.n_rows(slot)]
        self._actions.append(Compact(tuple(held)))

    def forget(self, slots: set[int]) -> None:
        """Drop the idle entries among `slots`, whose rows the runner has lost."""
        for slot in slots & self._idle.keys():
            del self._idle[slot]
            self.ledger.clear(slot)
            heapq.heappush(self._free_slots, slot)

    def reset(self) -> None:
        """Begin anew with empty slots, as the runner does; what is in host memory stays."""
        self.ledger = CellLedger(self.ledger.n_cells, ordered=self.ledger.ordered)
        self._idle.clear()
        self._free_slots = list(range(self._n_slots))
        self._actions.clear()

    def clear(self) -> None:
        """Drop all idle entries, those in host memory too."""
        for slot in list(self._idle):
            del self._idle[slot]
            self._free(slot)
        self.host.clear()

    def _evict(self, slot: int) -> None:
        rows = self._idle.pop(slot)
        if len(rows) >= MIN_REUSED_ROWS and self.host.wants(rows):
            self._actions.append(Save(slot, rows))
        self._free(slot)

    def _free(self, slot: int) -> None:
        self.ledger.clear(slot)
        heapq.heappush(self._free_slots, slot)
        self._actions.append(Free(slot))

    def _touch(self, slot: int) -> None:
        if slot in self._idle:
            self._idle[slot] = self._idle.pop(slot)
