"""The rules of FORMAT.md about what a cartridge waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacart.errors import CartridgeFormatError
from llamacart.file import format as fmt
from llamacart.file.texts import CONTROL, check_text, parse_json, shown

if TYPE_CHECKING:
    from collections.abc import Sequence


def parse_when(text: str) -> tuple[str, ...]:
    """The texts that the value of `llamacart.when` names; `check_when` has passed them."""
    value = parse_json(fmt.WHEN, text)
    said = value.get("said")
    if list(value) != ["said"] or not isinstance(said, list):
        raise CartridgeFormatError(
            "when", f"key {fmt.WHEN!r} is {shown(text)}; an object with one list, 'said', is needed"
        )
    if not said:
        raise CartridgeFormatError("when", f"key {fmt.WHEN!r} names no text")
    return check_when(said)


def check_when(texts: Sequence[object]) -> tuple[str, ...]:
    """Check the texts that a cartridge waits for; none means that it waits for nothing.

    Returns:
        They.
    """
    if len(texts) > fmt.MAX_WHEN_TEXTS:
        raise CartridgeFormatError(
            "when",
            f"key {fmt.WHEN!r} names {len(texts)} texts; at most {fmt.MAX_WHEN_TEXTS} are allowed",
        )
    found: dict[str, None] = {}
    for text in texts:
        if not isinstance(text, str) or not text.strip() or text != text.strip():
            raise CartridgeFormatError(
                "when",
                f"key {fmt.WHEN!r} names {shown(text)}; text without spaces around is needed",
            )
        check_text(fmt.WHEN, text)
        if text in found or CONTROL.search(text) or len(text.encode()) > fmt.MAX_WHEN_BYTES:
            raise CartridgeFormatError(
                "when",
                f"key {fmt.WHEN!r} names {shown(text)}; each text once, without control "
                f"characters and in at most {fmt.MAX_WHEN_BYTES} bytes is needed",
            )
        found[text] = None
    return tuple(found)
