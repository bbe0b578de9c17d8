"""How much memory: what the machine has, and what control groups leave of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llamacart.machine import memory
from llamacart.machine.memory import default_memory, resident_memory, usable_memory

GIB = 2**30


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "_physical", lambda: 16 * GIB)
    return tmp_path / "cgroup"


def write(folder: Path, name: str, value: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(value)


@pytest.mark.parametrize(
    ("name", "where", "line"),
    [
        ("memory.max", "a/b", "0::/a/b\n"),
        ("memory.limit_in_bytes", "memory/a/b", "7:memory:/a/b\n3:cpu:/x\n"),
    ],
)
@pytest.mark.parametrize(
    ("value", "expected"),
    [(str(6 * GIB), 6 * GIB), (str(2**63 - 4096), 16 * GIB), ("max", 16 * GIB), ("?", 16 * GIB)],
)
def test_a_group_bounds_it(
    groups: Path, tmp_path: Path, name: str, where: str, line: str, value: str, expected: int
) -> None:
    own = tmp_path / "own"
    own.write_text(line)
    write(groups / where, name, value)
    assert usable_memory(groups, own) == expected


def test_the_tightest_parent_counts(groups: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    write(groups / "a/b", "memory.max", str(8 * GIB))
    write(groups / "a", "memory.max", str(3 * GIB))
    assert usable_memory(groups, own) == 3 * GIB


def test_half_of_it_is_for_a_training() -> None:
    assert default_memory() == usable_memory() // 2
    assert 2**28 < default_memory() < 2**45


def test_what_is_resident(tmp_path: Path) -> None:
    statm = tmp_path / "statm"
    statm.write_text("900 300 20 1 0 80 0\n")
    assert resident_memory(statm) == 300 * os.sysconf("SC_PAGE_SIZE")
    for text in ("", "900 many"):
        statm.write_text(text)
        assert resident_memory(statm) == 0
    assert resident_memory(tmp_path / "none") == 0
