"""Text files that a person may have written, in whatever way their editor saves them.

A byte order mark is read as if it were not there, and line ends of any system are one
newline. What is no text is refused with a reason that says what to do.
"""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from llamacart.errors import InputError, NotFoundError

_BOM = b"\xef\xbb\xbf"
_WIDE = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""What other encodings begin with, the longer mark first."""

_DEVICES = Path("/dev")


def read_text(path: Path) -> str:
    """Text of a UTF-8 file.

    Raises:
        NotFoundError: There is no such file.
        InputError: It is a folder, a pipe or a device, may not be read, or is no UTF-8 text.
    """
    try:
        _check_kind(path)
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{str(path)!r} does not exist") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise _unreadable(path, getattr(error, "strerror", None) or error) from error
    return _decoded(path, data).replace("\r\n", "\n").replace("\r", "\n")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        NotFoundError: There is no such file.
        InputError: It cannot be read, or is no TOML.
    """
    text = read_text(path)
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise InputError(f"{path}: not TOML (nested too deep)") from error
    except ValueError as error:
        raise InputError(f"{path}: not TOML ({error})") from error


def _check_kind(path: Path) -> None:
    """Refuse what is no file: a pipe that nobody writes to would be waited for without end."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) or str(path) == os.devnull:
        return
    if stat.S_ISDIR(mode):
        raise _unreadable(path, "it is a folder; a file is needed")
    # A shell's `<(command)` is a pipe under /dev/fd, and somebody does write to it.
    if not (stat.S_ISFIFO(mode) and path.is_relative_to(_DEVICES)):
        raise _unreadable(path, "it is a pipe or a device; a file is needed")


def _decoded(path: Path, data: bytes) -> str:
    for mark, name in _WIDE.items():
        if data.startswith(mark):
            raise _unreadable(path, f"it is {name}; save it as UTF-8")
    data = data.removeprefix(_BOM)
    at = data.find(b"\0")
    if at >= 0:
        reason = f"line {_line(data, at)} holds a null byte; save it as UTF-8 text"
        raise _unreadable(path, reason)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(
            path,
            f"line {_line(data, error.start)} is not UTF-8 (byte 0x{data[error.start]:02x}); save "
            "it as UTF-8",
        ) from error


def _line(data: bytes, at: int) -> int:
    return data.count(b"\n", 0, at) + 1


def _unreadable(path: Path, reason: object) -> InputError:
    return InputError(f"{str(path)!r} cannot be read: {reason}")
