"""What is told of a body that cannot be taken: why it is no JSON, or which field is wrong."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from llamacart.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

UNKNOWN_FIELD = "unknown_field"
"""Type of pydantic's error for a field that a body does not have; `ctx["path"]` leads to it."""

_JSON_TYPES = {
    list: "a JSON array",
    str: "a JSON string",
    bool: "a JSON boolean",
    int: "a JSON number",
    float: "a JSON number",
}


def unreadable(error: BaseException | None) -> InputError:
    """What to tell of a body that could not be parsed, by what the parser raised."""
    match error:
        case UnicodeDecodeError():
            byte = error.object[error.start]
            reason = f"not {error.encoding.upper()}: byte {byte:#04x} at position {error.start}"
        case RecursionError():
            reason = "nested too deeply"
        case json.JSONDecodeError():
            reason = f"not valid JSON: {error.msg} at position {error.pos}"
        case ValueError():  # Python's own limit, which keeps reading a number from taking minutes
            reason = f"too long in a number; at most {sys.get_int_max_str_digits()} digits work"
        case _:
            reason = "unreadable"
    return InputError(f"the body is {reason}")


def from_validation(errors: Sequence[Any], body: Any) -> InputError:
    """One error that names the field, from pydantic's list.

    Where a field may have several types, pydantic reports once for each: those of the
    field that lies deepest are joined.
    """
    if errors[0]["type"] == "json_invalid":
        reason, place = errors[0]["ctx"]["error"], errors[0]["loc"][1]
        return InputError(f"the body is not valid JSON: {reason} at position {place}")
    if errors[0]["loc"][0] in ("path", "query", "header"):
        name = str(errors[0]["loc"][1])
        return InputError(f"{name!r}: {_reason(errors[0])}", param=name)
    if not isinstance(body, dict):
        found = "empty or null" if body is None else _JSON_TYPES.get(type(body), "no object")
        return InputError(f"the body is {found}; a JSON object is needed")
    places = [_place(error, body) for error in errors]
    deepest = max(places, key=len)
    reasons = dict.fromkeys(
        _reason(error) for error, place in zip(errors, places, strict=True) if place == deepest
    )
    param = _dotted(deepest)
    return InputError(f"{param!r}: {', or '.join(reasons)}", param=param)


def _reason(error: Any) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    reason = str(error["msg"])
    return reason[:1].lower() + reason[1:]


def _place(error: Any, body: Any) -> tuple[str | int, ...]:
    """Where in the body an error lies, without the names of types in pydantic's `loc`."""
    path: list[str | int] = []
    value = body
    last = len(error["loc"]) - 1
    for i, part in enumerate(error["loc"][1:], 1):
        is_missing = i == last and error["type"] == "missing"
        if isinstance(value, dict) and (part in value or is_missing):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            continue
        path.append(part)
    if error["type"] == UNKNOWN_FIELD:
        path.extend(error["ctx"]["path"])
    return tuple(path)


def _dotted(path: tuple[str | int, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")
