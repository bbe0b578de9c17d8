"""Puts other figures into a cartridge file, and leaves all else in it as it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from llamacart.disk.whole import whole_file
from llamacart.errors import CartridgeError, CartridgeFormatError
from llamacart.file import format as fmt
from llamacart.file.cursor import Cursor, read_value
from llamacart.file.reader import read_cartridge
from llamacart.file.texts import format_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamacart.cartridge import Cartridge


def write_diagnostics(
    path: Path | str, cartridge: Cartridge, diagnostics: Mapping[str, Any]
) -> None:
    """Replace `llamacart.diagnostics` in the file of a cartridge.

    All other keys and the tensors keep their bytes and their order, so that what acts, its hash and
    what a later version may have put beside are the same. The file is whole at any time.

    Args:
        path: The file; a link to it stays one.
        cartridge: What the figures are of.
        diagnostics: The new value, whole.

    Raises:
        NotFoundError: There is no file any more.
        CartridgeError: The file holds something else by now, or cannot be written.
        CartridgeFormatError: The figures are no JSON, or too long.
    """
    text = format_json(fmt.DIAGNOSTICS, diagnostics).encode()
    if read_cartridge(path).content_hash != cartridge.content_hash:
        raise CartridgeError(
            f"{path} has changed since it was read: it holds another cartridge now, which these "
            "figures are not of"
        )
    target = Path(path).resolve()
    try:
        with target.open("rb") as old, whole_file(target) as temporary:
            with temporary.open("xb") as new:
                _copy(old, new, text)
                new.flush()
                os.fsync(new.fileno())
            shutil.copymode(target, temporary)
    except OSError as error:
        raise CartridgeError(f"cannot write {path}: {error.strerror or error}") from error


def _copy(old: BinaryIO, new: BinaryIO, text: bytes) -> None:
    """Copy a valid file with another text as its diagnostics."""
    cursor = Cursor(old, os.fstat(old.fileno()).st_size)
    start, end, header_end = _places(cursor)
    old.seek(0)
    new.write(old.read(start))
    new.write(len(text).to_bytes(8, "little") + text)
    old.seek(end)
    new.write(old.read(header_end - end))
    new.write(bytes(-new.tell() % fmt.ALIGNMENT))
    old.seek(header_end + -header_end % fmt.ALIGNMENT)
    shutil.copyfileobj(old, new, 1 << 20)
    if new.tell() > fmt.MAX_FILE_BYTES:
        raise CartridgeFormatError(
            "file-size",
            f"the file would have {new.tell()} bytes; at most {fmt.MAX_FILE_BYTES} are allowed",
        )


def _places(cursor: Cursor) -> tuple[int, int, int]:
    """Where the value of the diagnostics begins and ends, and where the header ends."""
    cursor.take(8, "magic number and version")
    n_tensors, n_keys = (cursor.uint(8, "a count") for _ in range(2))
    start = end = 0
    for _ in range(n_keys):
        key = cursor.text("a key", fmt.MAX_KEY_BYTES)
        kind = cursor.uint(4, "a type")
        before = cursor.position
        read_value(cursor, kind, "a value")
        if key == fmt.DIAGNOSTICS:
            start, end = before, cursor.position
    for _ in range(n_tensors):
        cursor.text("the name of a tensor", fmt.MAX_TENSOR_NAME_BYTES)
        cursor.take(8 * cursor.uint(4, "the number of dimensions") + 12, "shape, type and offset")
    return start, end, cursor.position
