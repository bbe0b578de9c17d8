"""Which processors this process may use, and how many threads are right for them."""

from __future__ import annotations

import os
from pathlib import Path

from llamacart.errors import InputError

MAX_THREADS = 512
"""`GGML_MAX_N_THREADS`: llama.cpp ends the process on more."""

ALL_LAYERS = -1
"""Of `gpu_layers`: as many as the model has."""

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
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


def cpu_quota(groups: Path = _CONTROL_GROUPS, own: Path = _OWN_GROUPS) -> float | None:
    """Processors' time that control groups (version 1 or 2) grant; None if unlimited.

    A group is bound by its parents, so the smallest quota on the way up counts.

    Args:
        groups: Where control groups are mounted.
        own: The list of this process's groups.
    """
    quotas = [
        quota
        for group in _groups_of_process(groups, own)
        for quota in (_quota_v2(group), _quota_v1(group))
        if quota is not None
    ]
    return min(quotas, default=None)


def _groups_of_process(groups: Path, own: Path) -> list[Path]:
    """Folders of this process's groups and all their parents, as far as they can be seen.

    In a container the list may name the host's path while the mount shows only its end.
    """
    # A container with a namespace of its own sees itself as the root.
    found = [groups, *(groups / name for name in _V1_FOLDERS)]
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        parts = [part for part in path.split("/") if part not in ("", "..")]
        if controllers == "":
            roots = [groups]
        elif "cpu" in controllers.split(","):
            roots = [groups / name for name in _V1_FOLDERS]
        else:
            continue
        found += [root.joinpath(*parts[:n]) for root in roots for n in range(1, len(parts) + 1)]
    return found


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
