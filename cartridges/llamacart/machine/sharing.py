"""How many of our threads can run at once beside what else the machine computes.

llama.cpp's threads meet at a barrier after each product and spin until the last has come. On a
machine that is not ours alone one of them waits for a processor while the others spin on theirs,
which made an answer four to ten times slower beside two busy programs on two processors. One
thread less, where another program takes a processor, costs only what that program takes.
"""

from __future__ import annotations

import math
import os
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from llamacart.machine.processors import usable_processors

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS_BETWEEN_LOOKS = 0.25
"""Linux counts a processor's time in ticks of 10 ms: a shorter time would be noise."""

_STAT = Path("/proc/stat")
_USER, _NICE, _SYSTEM, _IRQ, _SOFTIRQ, _STEAL = 0, 1, 2, 5, 6, 7


@dataclass(frozen=True)
class Usage:
    """Seconds of processor time since some moment in the past.

    Attributes:
        clock: Wall time.
        all: Of all programs on the processors that this process may use; without those of lower
            priority, which give way by themselves, unless this process is one of them.
        own: Of this process, as far as `all` holds it.
    """

    clock: float
    all: float
    own: float


def read_usage(stat: Path = _STAT) -> Usage | None:
    """What has been used so far; None where the system does not tell (it is not Linux)."""
    try:
        lines = stat.read_text().splitlines()
        allowed = {f"cpu{i}" for i in os.sched_getaffinity(0)}
        tick = 1 / os.sysconf("SC_CLK_TCK")
        nice = os.getpriority(os.PRIO_PROCESS, 0) > 0
        counted = [_USER, _SYSTEM, _IRQ, _SOFTIRQ, _STEAL, *([_NICE] if nice else [])]
        total = 0
        for line in lines:
            name, *values = line.split()
            if name in allowed:
                total += sum(int(values[i]) for i in counted)
    except (AttributeError, OSError, ValueError, IndexError):
        return None
    return Usage(time.monotonic(), total * tick, time.process_time())


def others_between(before: Usage, after: Usage) -> float:
    """Processors that other programs kept busy between two looks, on average."""
    seconds = after.clock - before.clock
    others = (after.all - before.all) - (after.own - before.own)
    return max(0.0, others / seconds) if seconds > 0 else 0.0


class Sharing:
    """Threads for now, looked up before each computation.

    Any thread may ask.

    Args:
        usage: Reads what has been used so far.
        clock: As of `Usage`.
    """

    def __init__(
        self,
        usage: Callable[[], Usage | None] = read_usage,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._usage, self._clock = usage, clock
        self._lock = threading.Lock()
        self._last = usage()
        self._others = 0.0

    @property
    def others(self) -> float:
        """Processors that others kept busy when last looked at."""
        return self._others

    def threads(self, most: int) -> int:
        """How many of `most` threads to compute with now, at least 1.

        Half a processor that others use takes none away: threads that wait so long for each other
        are as fast as one less.
        """
        last = self._last
        if last is None:
            return most
        if self._clock() - last.clock >= SECONDS_BETWEEN_LOOKS and self._lock.acquire(False):
            try:
                self._look()
            finally:
                self._lock.release()
        free = usable_processors() - self._others
        return min(max(math.floor(free + 0.5), 1), most)

    def look(self) -> float:
        """Look now, and return the processors that others have kept busy since the last look."""
        with self._lock:
            self._look()
        return self._others

    def _look(self) -> None:
        now = self._usage()
        if now is not None and self._last is not None:
            self._others = others_between(self._last, now)
            self._last = now


@cache
def of_this_process() -> Sharing:
    """The one whose looks all contexts of this process share."""
    return Sharing()
