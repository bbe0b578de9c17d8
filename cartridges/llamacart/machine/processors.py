"""Which processors this process may use, and how many threads are right for them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llamacart.errors import InputError
from llamacart.machine.control_groups import CONTROL_GROUPS, OWN_GROUPS, groups_of_process

if TYPE_CHECKING:
    from pathlib import Path

MAX_THREADS = 512
"""`GGML_MAX_N_THREADS`: llama.cpp ends the process on more."""

ALL_LAYERS = -1
"""Of `gpu_layers`: as many as the model has."""

_V1_FOLDERS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")


def usable_processors() -> int:
    """Processors that the scheduler may put this process on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """Threads that can all run at once: by affinity and by the control group's quota.

    A quota of 1.5 processors makes one thread: two would wait for each other while the group is
    stopped for the rest of each period.
    """
    threads = usable_processors()
    quota = cpu_quota()
    if quota is not None:
        threads = min(threads, int(quota))
    return min(max(threads, 1), MAX_THREADS)


def choose_threads(wanted: int | None) -> int:
    """`wanted`, or the default where it is None.

    Raises:
        InputError: It is not a number that llama.cpp can start.
    """
    if wanted is None:
        return default_threads()
    if not 1 <= wanted <= MAX_THREADS:
        raise InputError(
            f"threads has value {wanted}; 1 to {MAX_THREADS} are possible", param="threads"
        )
    return wanted


def check_gpu_layers(layers: int) -> None:
    """Raise `InputError` unless `layers` is a number of layers or `ALL_LAYERS`."""
    if layers < ALL_LAYERS:
        raise InputError(
            f"gpu_layers has value {layers}; {ALL_LAYERS} (all) or a number of layers is needed",
            param="gpu_layers",
        )


def cpu_quota(groups: Path = CONTROL_GROUPS, own: Path = OWN_GROUPS) -> float | None:
    """Processors' time that control groups (version 1 or 2) grant; None if unlimited.

    A group is bound by its parents, so the smallest quota on the way up counts.

    Args:
        groups: Where control groups are mounted.
        own: The list of this process's groups.
    """
    quotas = [
        quota
        for group in groups_of_process("cpu", _V1_FOLDERS, groups, own)
        for quota in (_quota_v2(group), _quota_v1(group))
        if quota is not None
    ]
    return min(quotas, default=None)


def _quota_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(group: Path) -> float | None:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text())
        period = int((group / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
