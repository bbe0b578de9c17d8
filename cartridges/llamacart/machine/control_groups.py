"""The control groups (version 1 or 2) that this process is in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def groups_of_process(
    controller: str,
    v1_folders: Sequence[str],
    groups: Path = CONTROL_GROUPS,
    own: Path = OWN_GROUPS,
) -> list[Path]:
    """Folders of this process's groups and all their parents, as far as they can be seen.

    In a container the list may name the host's path while the mount shows only its end.

    Args:
        controller: What is bound, such as `cpu`; version 2 has one tree for all.
        v1_folders: Where version 1 may mount it.
        groups: Where control groups are mounted.
        own: The list of this process's groups.
    """
    # A container with a namespace of its own sees itself as the root.
    found = [groups, *(groups / name for name in v1_folders)]
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
        elif controller in controllers.split(","):
            roots = [groups / name for name in v1_folders]
        else:
            continue
        found += [root.joinpath(*parts[:n]) for root in roots for n in range(1, len(parts) + 1)]
    return found
