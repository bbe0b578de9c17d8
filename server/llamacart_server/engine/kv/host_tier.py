"""Entries of the prefix cache that were moved to host memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llamacart_server.engine.kv.rows import Rows


@dataclass(frozen=True, eq=False)
class HostEntry:
    """Saved rows.

    Attributes:
        rows: What they were computed from.
        state: What `Runner.save` returned.
    """

    rows: Rows
    state: bytes


class HostTier:
    """Saved rows within a budget of bytes; the least recently used go first.

    Args:
        budget: Bytes; 0 turns it off.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._entries: dict[HostEntry, None] = {}  # least recently used first
        self.n_bytes = 0

    def __iter__(self) -> Iterator[HostEntry]:
        """Least recently used first."""
        return iter(self._entries)

    def wants(self, rows: Rows) -> bool:
        """Whether saving these rows would add anything."""
        return self._budget > 0 and not any(rows.begins(entry.rows) for entry in self)

    def add(self, entry: HostEntry) -> None:
        """Take an entry in unless it alone exceeds the budget."""
        self.drop_prefixes_of(entry.rows)
        if len(entry.state) > self._budget:
            return
        self._entries[entry] = None
        self.n_bytes += len(entry.state)
        while self.n_bytes > self._budget:
            self.discard(next(iter(self._entries)))

    def touch(self, entry: HostEntry) -> None:
        """Make it the one most recently used; one that is gone is ignored."""
        if entry in self._entries:
            self._entries[entry] = self._entries.pop(entry)

    def discard(self, entry: HostEntry) -> None:
        """Drop an entry; one that is gone is ignored."""
        if entry in self._entries:
            del self._entries[entry]
            self.n_bytes -= len(entry.state)

    def drop_prefixes_of(self, rows: Rows) -> None:
        """Drop entries that are the first rows of `rows`."""
        for entry in [entry for entry in self if entry.rows.begins(rows)]:
            self.discard(entry)

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self.n_bytes = 0
