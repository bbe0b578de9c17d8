"""Reads the fields of a GGUF file one after another, each bounded by the file's length."""

from __future__ import annotations

import struct
from typing import BinaryIO

from llamacart.errors import CartridgeFormatError
from llamacart.file import format as fmt


class Cursor:
    """Reads one field after another and never past the end of the file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = size
        self.position = 0

    def take(self, n_bytes: int, what: str) -> bytes:
        """The next bytes; `what` names them where the file ends before."""
        data = self.file.read(n_bytes) if n_bytes <= self.size - self.position else b""
        if len(data) != n_bytes:
            raise CartridgeFormatError(
                "truncated",
                f"{what} takes {n_bytes} bytes at byte {self.position}, "
                f"but the file ends at byte {self.size}",
            )
        self.position += n_bytes
        return data

    def uint(self, n_bytes: int, what: str) -> int:
        """The next little-endian number."""
        return int.from_bytes(self.take(n_bytes, what), "little")

    def count(self, rule: str, what: str, limit: int) -> int:
        """The next 64-bit number, which breaks `rule` above `limit`."""
        value = self.uint(8, what)
        if value > limit:
            raise CartridgeFormatError(rule, f"{what} is {value}; at most {limit} is allowed")
        return value

    def text(self, what: str, limit: int) -> str:
        """The next string, of at most `limit` bytes."""
        data = self.take(self.count("string-length", f"length of {what}", limit), what)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise CartridgeFormatError("utf-8", f"{what} is not UTF-8: {error.reason}") from None

    def jump(self, position: int) -> None:
        """Go on at a byte of the file."""
        self.position = self.file.seek(position)

    def pad(self, what: str) -> None:
        """Pass over the zeros up to the next multiple of the alignment."""
        if any(self.take(-self.position % fmt.ALIGNMENT, f"padding after {what}")):
            raise CartridgeFormatError("padding", f"the padding after {what} is not all zero")


def read_value(cursor: Cursor, kind: int, what: str) -> str | int | float | None:
    """The value of a key: text, uint32 or float32; of any other type it is passed over."""
    if kind == fmt.STRING:
        return cursor.text(what, fmt.MAX_STRING_BYTES)
    if kind == fmt.ARRAY:
        item = cursor.uint(4, f"the item type of {what}")
        n_items = cursor.count("array-length", f"the length of {what}", fmt.MAX_ARRAY_LENGTH)
        if item == fmt.STRING:
            for _ in range(n_items):
                cursor.text(what, fmt.MAX_STRING_BYTES)
        else:
            cursor.take(n_items * _value_bytes(item, what), what)
        return None
    data = cursor.take(_value_bytes(kind, what), what)
    if kind == fmt.FLOAT32:
        return float(struct.unpack("<f", data)[0])
    return int.from_bytes(data, "little") if kind == fmt.UINT32 else None


def _value_bytes(kind: int, what: str) -> int:
    if kind not in fmt.VALUE_BYTES:
        raise CartridgeFormatError("value-type", f"{what} has unknown or nested GGUF type {kind}")
    return fmt.VALUE_BYTES[kind]
