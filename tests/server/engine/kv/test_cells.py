from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart_server.engine.kv.cells import CellLedger


class TestSharing:
    def test_shared_cells_count_once_and_stay_until_the_last_holder_leaves(self):
        ledger = CellLedger(10)
        ledger.extend(0, 6)
        ledger.copy(0, 1, 4)
        ledger.extend(1, 2)
        assert (ledger.n_used, ledger.n_free) == (8, 2)
        ledger.clear(0)
        assert (ledger.n_used, ledger.n_rows(0), ledger.n_rows(1)) == (6, 0, 6)
        ledger.trim(1, 3)
        assert (ledger.n_used, ledger.n_rows(1)) == (3, 3)
        ledger.clear(1)
        assert (ledger.n_used, ledger.n_free) == (0, 10)

    def test_what_cannot_be_is_refused_and_changes_nothing(self):
        ledger = CellLedger(4)
        ledger.extend(0, 3)
        with pytest.raises(ValueError, match="2 cells are wanted, 1 are free"):
            ledger.extend(1, 2)
        with pytest.raises(ValueError, match="4 rows of slot 0"):
            ledger.copy(0, 1, 4)
        with pytest.raises(ValueError, match="slot 0"):
            ledger.copy(0, 0, 1)
        assert (ledger.n_used, ledger.n_rows(1)) == (3, 0)


class TestPins:
    def test_only_cells_of_no_pinned_slot_are_evictable(self):
        ledger = CellLedger(10)
        ledger.extend(0, 5)
        assert ledger.n_evictable == 5
        ledger.pin(1)
        ledger.copy(0, 1, 3)
        ledger.extend(1, 2)
        assert (ledger.n_used, ledger.n_evictable) == (7, 2)
        assert (ledger.n_unpinned(0, 5), ledger.n_unpinned(0, 3)) == (2, 0)
        ledger.pin(0)
        assert ledger.n_evictable == 0
        ledger.unpin(1)
        assert ledger.n_evictable == 2
        ledger.unpin(0)
        assert ledger.n_evictable == 7

    def test_pinning_twice_is_pinning_once(self):
        ledger = CellLedger(4)
        ledger.extend(0, 2)
        for _ in range(2):
            ledger.pin(0)
        ledger.unpin(0)
        ledger.unpin(0)
        assert ledger.n_evictable == 2

    def test_a_cleared_slot_stays_pinned(self):
        ledger = CellLedger(4)
        ledger.pin(0)
        ledger.extend(0, 2)
        ledger.clear(0)
        ledger.extend(0, 3)
        assert (ledger.n_used, ledger.n_evictable) == (3, 0)


operations = st.lists(
    st.tuples(
        st.sampled_from(["extend", "copy", "trim", "clear", "pin", "unpin", "compact"]),
        st.integers(0, 3),
        st.integers(0, 3),
        st.integers(0, 12),
    ),
    max_size=60,
)


@given(operations, st.booleans())
def test_it_counts_like_sets_of_cells(steps, ordered):
    ledger, slots, pinned = CellLedger(20, ordered=ordered), {i: [] for i in range(4)}, set()
    taken = 0  # where cells are in order, all that were taken since they were last compacted
    for name, slot, other, n in steps:
        held = {id(cell) for cells in slots.values() for cell in cells}
        n_rows = sum(map(len, slots.values()))
        if name == "extend" and n <= 20 - (taken if ordered else len(held)):
            ledger.extend(slot, n)
            slots[slot] += [object() for _ in range(n)]
            taken += n
        elif name == "copy" and not slots[other] and n <= len(slots[slot]):
            ledger.copy(slot, other, n)
            slots[other] = slots[slot][:n]
        elif name == "trim" and n <= len(slots[slot]):
            ledger.trim(slot, n)
            del slots[slot][n:]
        elif name == "clear":
            ledger.clear(slot)
            slots[slot] = []
        elif name == "pin":
            ledger.pin(slot)
            pinned.add(slot)
        elif name == "unpin":
            ledger.unpin(slot)
            pinned.discard(slot)
        elif name == "compact" and ordered and n_rows <= 20:
            ledger.compact()
            slots = {i: [object() for _ in cells] for i, cells in slots.items()}
            taken = n_rows
        held = {id(cell) for cells in slots.values() for cell in cells}
        kept = {id(cell) for i in pinned for cell in slots[i]}
        n_free = 20 - (taken if ordered else len(held))
        assert (ledger.n_used, ledger.n_free, ledger.n_idle) == (
            len(held),
            n_free,
            len(held - kept),
        )
        n_pinned_rows = sum(len(slots[i]) for i in pinned)
        assert ledger.n_evictable == (20 - n_pinned_rows - n_free if ordered else len(held - kept))
        assert ledger.n_room == 20 - sum(map(len, slots.values()))
        assert ledger.n_dead == (taken - len(held) if ordered else 0)
        assert [ledger.n_rows(i) for i in slots] == [len(cells) for cells in slots.values()]
        for i, cells in slots.items():
            first = cells[:3]
            loose = len(first) if ordered else sum(id(cell) not in kept for cell in first)
            assert ledger.n_unpinned(i, len(first)) == loose


def test_rows_that_do_not_fit_unshared_are_not_compacted():
    ledger = CellLedger(10, ordered=True)
    ledger.extend(0, 6)
    ledger.copy(0, 1, 6)
    with pytest.raises(ValueError, match="12 rows do not fit 10 cells"):
        ledger.compact()
