"""How much memory this process may use."""

from __future__ import annotations

import os
from pathlib import Path

from llamacart.machine.control_groups import CONTROL_GROUPS, OWN_GROUPS, groups_of_process

SHARE = 0.5
"""Of the memory, what a training takes unless it is told otherwise."""

UNKNOWN = 8 * 2**30
"""Bytes that a machine is taken to have where it does not say."""

STATM = Path("/proc/self/statm")

_V1_FOLDERS = ("memory",)


def usable_memory(groups: Path = CONTROL_GROUPS, own: Path = OWN_GROUPS) -> int:
    """Bytes that the machine has, or that control groups (version 1 or 2) grant where that is less.

    What other programs use of it does not count, so that the answer is the same another time.

    Args:
        groups: Where control groups are mounted.
        own: The list of this process's groups.
    """
    limits = [
        limit
        for group in groups_of_process("memory", _V1_FOLDERS, groups, own)
        for name in ("memory.max", "memory.limit_in_bytes")
        if (limit := _limit(group / name)) is not None
    ]
    return min([_physical(), *limits])


def default_memory() -> int:
    """Bytes that a training may take of what this process may use."""
    return int(SHARE * usable_memory())


def resident_memory(statm: Path = STATM) -> int:
    """Bytes of this process that are in memory now; 0 where the system does not say.

    Args:
        statm: Linux's account of it.
    """
    try:
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _physical() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return UNKNOWN


def _limit(path: Path) -> int | None:
    try:
        # Version 1 says a number near 2^63 where there is no limit, version 2 "max".
        return int(path.read_text())
    except (OSError, ValueError):
        return None
