"""Files: how they are named, and how they are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from llamacart.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def has_suffix(path: Path, suffix: str) -> bool:
    """Whether a file's name ends in `suffix` ('.gguf'), in whatever letter case."""
    return path.suffix.lower() == suffix


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


def check_target(path: Path, name: str) -> None:
    """Refuse a path at which no file could be written; nothing is made and nothing is left.

    For what computes first and writes at the end. A file that is there would be replaced; what is
    neither a file nor absent, such as a folder or a device, is refused.

    Args:
        path: Where the file is to be; folders that are missing on the way would be made.
        name: Of the option or setting, for the message.

    Raises:
        InputError: It names `name`, the path and the reason.
    """
    with _naming(name, path):
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()  # a name that is too long, or none at all
        if path.is_dir():
            raise InputError(f"{name} has value {str(path)!r}: a folder; a file is needed")
        if path.exists() and not path.is_file():
            raise InputError(f"{name} has value {str(path)!r}: not a regular file")
        _probe(path.parent, name, path)


def check_folder(path: Path, name: str) -> None:
    """The same for a folder that files are to be put in.

    Raises:
        InputError: It names `name`, the path and the reason.
    """
    with _naming(name, path):
        _probe(path, name, path)


def _probe(folder: Path, name: str, path: Path) -> None:
    """Make a file in the folder, or in the one it would be made in, and remove it."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    if not there.is_dir():
        raise InputError(f"{name} has value {str(path)!r}: {str(there)!r} is not a folder")
    # Permission bits say too little: mounts are read-only, and root may write anywhere.
    probe = there / f".llamacart-{secrets.token_hex(8)}.tmp"
    probe.touch(exist_ok=False)
    probe.unlink()


@contextmanager
def _naming(name: str, path: Path) -> Iterator[None]:
    """What the system refuses, as an error that names the option."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise InputError(
            f"{name} has value {str(path)!r}: cannot be written ({reason or error})"
        ) from error


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
