"""The priority of this process among others."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from llamacart.errors import InputError

LOWEST = 19
"""Gives way to everything else, and takes all that is left."""

_THREADS = Path("/proc/self/task")


def check_nice(value: int) -> None:
    """Raise `InputError` unless `value` is a priority that anybody may take."""
    if not 0 <= value <= LOWEST:
        raise InputError(
            f"nice has value {value}; 0 (as any other program) to {LOWEST} (gives way to all) are "
            "possible",
            param="nice",
        )


def give_way(nice: int) -> int:
    """Lower the priority of this process to `nice`, with all threads that it has by now.

    A process of lower priority stays as it is.

    Returns:
        Its priority then; 0 where the system has none (Windows).

    Raises:
        InputError: `nice` is none of 0..19.
    """
    check_nice(nice)
    if not hasattr(os, "setpriority"):
        return 0
    now = os.getpriority(os.PRIO_PROCESS, 0)
    if now >= nice:
        return now
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    # On Linux that was this thread alone; NumPy has started others by now.
    with suppress(OSError):
        for thread in _THREADS.iterdir():
            with suppress(OSError):  # it has ended
                os.setpriority(os.PRIO_PROCESS, int(thread.name), nice)
    return nice
