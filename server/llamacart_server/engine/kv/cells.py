"""A ledger of KV cells: which slots hold which, counted exactly as llama.cpp counts them."""

from __future__ import annotations

from array import array

import numpy as np


class CellLedger:
    """Virtual cells with reference counts, like llama.cpp's unified KV cache.

    A cell belongs to every slot whose row it holds: `copy` shares cells, `trim` and `clear` give
    back those that nobody else holds. A *pinned* slot belongs to a running sequence; cells that
    no pinned slot holds can be had by clearing slots that are not pinned.

    Where the runner keeps cells in order, cells that are given back are *dead*: nobody can have
    them until `compact` moves all rows to the first cells, where every slot has its own.

    Args:
        n_cells: Cells in all.
        ordered: Whether the runner keeps cells in order.
    """

    def __init__(self, n_cells: int, *, ordered: bool = False) -> None:
        self.n_cells = n_cells
        self.ordered = ordered
        self._empty()

    def _empty(self) -> None:
        """No slot holds a cell, and no slot is pinned."""
        self.n_dead = 0
        self._n_rows = 0
        self._n_pinned_rows = 0
        self._free = list(range(self.n_cells - 1, -1, -1))
        self._holders = np.zeros(self.n_cells, np.int32)
        self._pins = np.zeros(self.n_cells, np.int32)
        self._n_pinned = 0
        self._slots: dict[int, array[int]] = {}
        self._pinned: set[int] = set()

    @property
    def n_free(self) -> int:
        """Cells that can be taken now."""
        return len(self._free)

    @property
    def n_used(self) -> int:
        """Cells that a slot holds, each counted once."""
        return self.n_cells - len(self._free) - self.n_dead

    @property
    def n_idle(self) -> int:
        """Cells in use that no pinned slot holds."""
        return self.n_used - self._n_pinned

    @property
    def n_evictable(self) -> int:
        """Cells that would be free beside `n_free` if only pinned slots held any.

        Negative where pinned slots share more than they could if each had its own.
        """
        if self.ordered:
            return self.n_cells - self._n_pinned_rows - self.n_free
        return self.n_idle

    @property
    def n_room(self) -> int:
        """Cells that would be free after `compact`; negative where it would not fit."""
        return self.n_cells - self._n_rows

    def n_rows(self, slot: int) -> int:
        """Rows in a slot."""
        return len(self._slots.get(slot, ()))

    def n_unpinned(self, slot: int, n: int) -> int:
        """How many of a slot's first `n` cells would be free without slots that are not pinned."""
        if self.ordered:
            return n
        return int(np.count_nonzero(self._pins[self._ids(slot, 0, n)] == 0))

    def extend(self, slot: int, n: int) -> None:
        """Take `n` free cells for new rows of a slot; raises ValueError if there are too few."""
        if n > len(self._free):
            raise ValueError(f"{n} cells are wanted, {len(self._free)} are free")
        ids = [self._free.pop() for _ in range(n)]
        self._slots.setdefault(slot, array("i")).extend(ids)
        self._holders[ids] = 1
        self._n_rows += n
        if slot in self._pinned:
            self._pins[ids] = 1
            self._n_pinned += n
            self._n_pinned_rows += n

    def copy(self, source: int, target: int, n: int) -> None:
        """Let an empty slot hold the first `n` cells of another; raises ValueError otherwise."""
        if self.n_rows(target) or n > self.n_rows(source):
            raise ValueError(f"{n} rows of slot {source} cannot be shared with slot {target}")
        if not n:
            return
        self._slots[target] = self._slots[source][:n]
        ids = self._ids(target, 0, n)
        self._holders[ids] += 1
        self._n_rows += n
        if target in self._pinned:
            self._add_pins(ids)

    def trim(self, slot: int, n: int) -> None:
        """Keep the first `n` rows of a slot."""
        ids = self._ids(slot, n, self.n_rows(slot))
        if slot in self._pinned:
            self._drop_pins(ids)
        self._holders[ids] -= 1
        self._n_rows -= len(ids)
        given_back = ids[self._holders[ids] == 0].tolist()
        if self.ordered:
            self.n_dead += len(given_back)
        else:
            self._free.extend(given_back)
        if n:
            del self._slots[slot][n:]
        else:
            self._slots.pop(slot, None)

    def clear(self, slot: int) -> None:
        """Drop all rows of a slot; it stays pinned if it is."""
        self.trim(slot, 0)

    def compact(self) -> None:
        """Give every slot its own cells, the first ones; raises ValueError if they do not fit."""
        if self.n_room < 0:
            raise ValueError(f"{self._n_rows} rows do not fit {self.n_cells} cells")
        sizes = {slot: len(cells) for slot, cells in self._slots.items()}
        pinned = list(self._pinned)
        self._empty()
        for slot in pinned:
            self.pin(slot)
        for slot, n in sizes.items():
            self.extend(slot, n)

    def pin(self, slot: int) -> None:
        """Mark a slot, and what it will hold, as a running sequence's."""
        if slot not in self._pinned:
            self._pinned.add(slot)
            self._add_pins(self._ids(slot, 0, self.n_rows(slot)))

    def unpin(self, slot: int) -> None:
        """Take the mark back."""
        if slot in self._pinned:
            self._pinned.remove(slot)
            self._drop_pins(self._ids(slot, 0, self.n_rows(slot)))

    def _ids(self, slot: int, start: int, stop: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return np.array(self._slots.get(slot, array("i"))[start:stop], np.int32)

    # The cells of one slot differ from each other, so indexing with them adds once to each.

    def _add_pins(self, ids: np.ndarray[tuple[int], np.dtype[np.int32]]) -> None:
        self._n_pinned_rows += len(ids)
        self._pins[ids] += 1
        self._n_pinned += int(np.count_nonzero(self._pins[ids] == 1))

    def _drop_pins(self, ids: np.ndarray[tuple[int], np.dtype[np.int32]]) -> None:
        self._n_pinned_rows -= len(ids)
        self._pins[ids] -= 1
        self._n_pinned -= int(np.count_nonzero(self._pins[ids] == 0))
