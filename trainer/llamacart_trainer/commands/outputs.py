"""Where a command writes: looked at before the work, written after its tables are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacart.disk.whole import check_folder, check_target, write_whole
from llamacart.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from llamacart.cartridge import Cartridge


def check_outputs(
    files: Mapping[str, Path | None], folders: Mapping[str, Path | None] | None = None
) -> None:
    """Refuse what could not be written at the end; nothing is made.

    Args:
        files: Option → the file it names, None where it is not given.
        folders: The same of folders that files are put in.

    Raises:
        InputError: A path cannot be written, or two options name one file.
    """
    taken: dict[Path, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        check_target(path, option)
        other = taken.setdefault(path.resolve(), option)
        if other != option:
            raise InputError(f"{other} and {option} both name {str(path)!r}; two files are needed")
    for option, path in (folders or {}).items():
        if path is not None:
            check_folder(path, option)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, in a folder that is made where it is missing.

    Raises:
        InputError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written: {error}") from error


def save_cartridge(cartridge: Cartridge, path: Path) -> int:
    """Write a cartridge, in a folder that is made where it is missing; its size in bytes.

    Raises:
        InputError: It cannot be written.
    """
    # Every `llamacart` command imports this module; few need gguf.
    from llamacart.file.writer import write_cartridge

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"folder {str(path.parent)!r} cannot be made: {error}") from error
    return write_cartridge(cartridge, path)


def beside(output: Path, ending: str) -> Path:
    """A path beside an output, called like it and then `ending`.

    Raises:
        InputError: The output is a folder such as `.`, which has no name to call it by.
    """
    if not output.name:
        raise InputError(f"--output has value {str(output)!r}: a folder, where a file is needed")
    return output.with_name(f"{output.name}{ending}")
