"""The rules of FORMAT.md about what a file's strings hold, JSON among them."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from llamacart.errors import CartridgeFormatError
from llamacart.file import format as fmt

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that no string but JSON may hold."""


def shown(value: object) -> str:
    """`value` for a message, cut to a length that fits a terminal."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_text(key: str, text: str) -> None:
    """Check that a string is UTF-8 and not too long."""
    try:
        n_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise CartridgeFormatError("utf-8", f"key {key!r} is not UTF-8: {error.reason}") from None
    if n_bytes > fmt.MAX_STRING_BYTES:
        raise CartridgeFormatError(
            "string-length",
            f"key {key!r} has {n_bytes} bytes; at most {fmt.MAX_STRING_BYTES} are allowed",
        )


def parse_json(key: str, text: str) -> dict[str, Any]:
    """The JSON object in `text`, refusing what JSON proper cannot say or says twice."""
    try:
        value = json.loads(
            text,
            parse_float=_finite,
            parse_constant=_finite,
            object_pairs_hook=_unique,
        )
        depth = _depth(value)
    except (ValueError, RecursionError) as error:
        raise CartridgeFormatError("json", f"key {key!r} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CartridgeFormatError("json", f"key {key!r} is {shown(value)}, not a JSON object")
    if depth > fmt.MAX_JSON_DEPTH:
        raise CartridgeFormatError(
            "json", f"key {key!r} nests {depth} deep; at most {fmt.MAX_JSON_DEPTH} is allowed"
        )
    return value


def format_json(key: str, value: Mapping[str, Any]) -> str:
    """`value` as the text to store under `key`, such that `parse_json` accepts it."""
    try:
        text = json.dumps(dict(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise CartridgeFormatError("json", f"key {key!r} cannot be JSON: {error}") from None
    check_text(key, text)
    parse_json(key, text)
    return text


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{shown(text)} is not a finite number")
    return value


def _depth(value: object) -> int:
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, inner), default=0)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found
