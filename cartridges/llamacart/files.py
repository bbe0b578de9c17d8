"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A new path in the same folder, whose file takes the place of `path` at the end.

    What is written there must be on disk (`os.fsync`) by then. A reader sees the old file or the
    new one, and a failure leaves the old one and nothing else.

    Raises:
        OSError: The file cannot be put in place.
    """
    temporary = path.parent / f".llamacart-{secrets.token_hex(8)}.tmp"
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()
    sync_folder(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a text file (UTF-8) whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can."""
    # The file is in place by now, so a system that cannot (Windows, some network mounts) is
    # no failure.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
