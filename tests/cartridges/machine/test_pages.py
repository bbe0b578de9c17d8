"""Memory that is given back is that of whole pages inside the region, and nothing beside them."""

from __future__ import annotations

import ctypes
import mmap

import pytest

from llamacart.machine import pages
from llamacart.machine.pages import give_back, meet

PAGE = mmap.PAGESIZE


def filled(n_pages: int) -> tuple[mmap.mmap, int]:
    """Pages full of ones, and their address."""
    memory = mmap.mmap(-1, n_pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = b"\x01" * (n_pages * PAGE)
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))


@pytest.mark.skipif(not pages.POSSIBLE, reason="only Linux gives memory back")
def test_whole_pages_are_given_back_and_nothing_beside_them() -> None:
    memory, start = filled(4)
    assert give_back(range(start + 5, start + 3 * PAGE + 7)) == 2 * PAGE
    assert memory[:PAGE] + memory[3 * PAGE :] == b"\x01" * (2 * PAGE)
    assert memory[PAGE : 3 * PAGE] == bytes(2 * PAGE)
    memory[PAGE] = 7  # it may be written again
    assert memory[PAGE] == 7


def test_less_than_a_page_is_kept() -> None:
    memory, start = filled(2)
    for region in (range(start + 1, start + PAGE), range(start, start), range(0)):
        assert give_back(region) == 0
    assert memory[:] == b"\x01" * (2 * PAGE)


def test_a_system_that_gives_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "POSSIBLE", False)
    memory, start = filled(2)
    assert give_back(range(start, start + 2 * PAGE)) == 0
    assert memory[:] == b"\x01" * (2 * PAGE)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (range(10), range(9, 20), True),
        (range(10), range(10, 20), False),
        (range(30), range(10, 20), True),
        (range(10, 10), range(20), False),
    ],
)
def test_regions_that_meet(one: range, other: range, expected: bool) -> None:
    assert meet(one, other) is expected
    assert meet(other, one) is expected
