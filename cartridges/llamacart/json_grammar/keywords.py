"""What the keywords of a JSON Schema say, read with care: a schema comes from a request."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from llamacart.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ANNOTATIONS = frozenset(
    [
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("$schema", "$id", "$anchor", "$comment", "$defs", "definitions", "discriminator"),
        *("contentMediaType", "contentEncoding"),
    ]
)
COMBINERS = ("$ref", "anyOf", "oneOf", "allOf")
BOUNDS = frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"])
COUNTS = {
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
}
NUMERIC = BOUNDS | {"multipleOf"}
OF_TYPE = {
    "object": frozenset(
        ["properties", "required", "additionalProperties", "patternProperties", *COUNTS["object"]]
    ),
    "array": frozenset(["items", "prefixItems", *COUNTS["array"]]),
    "string": frozenset(["pattern", "format", *COUNTS["string"]]),
    "integer": NUMERIC,
    "number": NUMERIC,
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
KNOWN = frozenset(["type", "enum", "const", *COMBINERS]).union(*OF_TYPE.values())

MAX_COUNT = 100_000
MAX_INTEGER = 2**53
"""Beyond, llguidance's doubles leave out integers."""
_SMALLEST = 1e-15
_MAX_FACTOR = 10_000
_MAX_REFERENCES = 64
_MAX_PAIRED = 64
"""Alternatives that are compared each with each."""

_YEAR = "[0-9]{4}"
_DATE = (
    f"{_YEAR}-(?:(?:0[13578]|10|12)-(?:0[1-9]|[12][0-9]|3[01])|"
    "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_CLOCK}:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[-+]{_CLOCK})"
_HEX = "[0-9a-fA-F]"
PATTERNS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "uuid": f"^{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}$",
}
"""Formats as patterns: stricter than llguidance's own, which know no 30th of February."""
FORMATS = frozenset(["duration", "email", "hostname", "ipv4", "ipv6", "uri"])
"""Formats that llguidance keeps."""


def refusal(where: str, what: str) -> InputError:
    """The error for a part of a schema."""
    return InputError(f"the schema at {where} {what}")


def types_of(schema: Any, where: str) -> list[str]:
    """The types that a schema without combiners allows."""
    given = schema.get("type")
    if given is None:
        return [kind for kind in OF_TYPE if kind != "integer"]
    types = given if isinstance(given, list) else [given]
    for kind in types:
        if not isinstance(kind, str) or kind not in OF_TYPE:
            raise refusal(where, f"has type {short(kind)}; one of {', '.join(OF_TYPE)} is known")
    if not types:
        raise refusal(where, "has an empty list of types")
    return types


def listed_values(schema: dict[str, Any]) -> list[Any] | None:
    """The values of `const` or `enum`, None where there is neither."""
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def type_of(value: Any) -> str:
    """The narrowest type of a value."""
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return "null"


def check_count(name: str, value: Any) -> str | None:
    """What is wrong with the value of `minLength` and its like."""
    if not is_whole(value) or value < 0:
        return f"has {name} {short(value)}; a whole number of at least 0 is needed"
    if value > MAX_COUNT:
        return f"has {name} {short(value)}; at most {MAX_COUNT} is supported"
    if name == "minProperties" and value > 1:
        return f"has minProperties {value}; at most 1 is supported"
    return None


def check_number(name: str, value: Any) -> str | None:
    """What is wrong with a bound, a `multipleOf` or a listed number."""
    if type(value) not in (int, float) or not math.isfinite(value):
        return f"has {name} {short(value)}; a number is needed"
    if name == "multipleOf" and not _is_factor(value):
        return f"has multipleOf {short(value)}; 1 to {_MAX_FACTOR}, or 0.1 to 0.0001, is supported"
    if abs(value) > MAX_INTEGER or 0 < abs(value) < _SMALLEST:
        return f"has {name} {short(value)}; at most 16 digits are supported"
    return None


def check_listed(value: Any) -> str | None:
    """What is wrong with a listed value."""
    kind = type_of(value)
    if kind in ("integer", "number"):
        return check_number("the number", value)
    children = value if kind == "array" else value.values() if kind == "object" else ()
    return next(filter(None, map(check_listed, children)), None)


def _is_factor(value: float) -> bool:
    if is_whole(value):
        return 1 <= value <= _MAX_FACTOR
    return value in (0.5, 0.25, 0.1, 0.01, 0.001, 0.0001)


def is_whole(value: Any) -> bool:
    """Whether a value is an integer as JSON Schema sees it."""
    return type(value) is int or (type(value) is float and value.is_integer())


def means_nothing(key: str, value: Any, schema: dict[str, Any]) -> bool:
    """Whether a keyword that is not known has no effect, or an effect that is seen to elsewhere."""
    if key == "additionalItems":
        return isinstance(schema.get("items"), list) or "items" not in schema
    return key == "uniqueItems" and value is False


def narrowed(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with what its author most likely meant and left out.

    Keywords of one type mean that type, and a tuple has no further items.
    """
    if not schema.keys() & {"type", "enum", "const", *COMBINERS}:
        kinds = [k for k in ("object", "array", "string", "number") if schema.keys() & OF_TYPE[k]]
        if len(kinds) == 1:
            schema = {"type": kinds[0], **schema}
    prefix, least = schema.get("prefixItems"), schema.get("minItems", 0)
    if isinstance(prefix, list) and "items" not in schema and not _exceeds(least, len(prefix)):
        schema = {**schema, "items": False}
    return schema


def _exceeds(least: Any, n: int) -> bool:
    return isinstance(least, int) and least > n


def distinct(values: list[Any]) -> list[Any]:
    """The values without repetitions, in order."""
    if all(isinstance(value, str) for value in values):
        return list(dict.fromkeys(values))
    out: dict[str, Any] = {}
    for value in values:
        out.setdefault(repr(value), value)
    return list(out.values())


def are_disjoint(parts: Sequence[Any], resolve: Callable[[Any], Any], where: str) -> bool:
    """Whether no text can be allowed by two of several alternatives, as far as can be told.

    Args:
        parts: Schemas.
        resolve: Finds what a `$ref` refers to.
        where: Where they lie.
    """
    told = [_told_apart_by(part, resolve, where) for part in parts]
    if not told:
        return True
    for key in set.intersection(*(set(one) for one in told)):
        values = [one[key] for one in told]
        if sum(map(len, values)) == len(frozenset().union(*values)):
            return True
    return len(told) <= _MAX_PAIRED and all(
        any(a[key].isdisjoint(b[key]) for key in a.keys() & b.keys())
        for i, a in enumerate(told)
        for b in told[:i]
    )


def _told_apart_by(
    part: Any, resolve: Callable[[Any], Any], where: str
) -> dict[str, frozenset[str]]:
    """What is known of a text of `part`: its types, and the values of some properties."""
    for _ in range(_MAX_REFERENCES):
        if not (isinstance(part, dict) and "$ref" in part):
            break
        part = resolve(part["$ref"])
    if not isinstance(part, dict) or any(combiner in part for combiner in COMBINERS):
        return {}
    values = listed_values(part)
    if values is not None:
        return {"": frozenset(map(type_of, values)), "=": frozenset(map(_canonical, values))}
    if "type" not in part:
        return {}
    types = frozenset(types_of(part, where))
    out = {"": types | ({"integer"} if "number" in types else frozenset())}
    properties, required = part.get("properties"), part.get("required")
    if types == {"object"} and isinstance(properties, dict) and isinstance(required, list):
        for name, schema in properties.items():
            values = listed_values(schema) if isinstance(schema, dict) else None
            if name in required and values is not None:
                out[f"/{name}"] = frozenset(map(_canonical, values))
    return out


def _canonical(value: Any) -> str:
    """A text that equal values share: 1 and 1.0 are equal in JSON Schema."""
    return json.dumps(value, sort_keys=True) if not is_whole(value) else str(int(value))


def short(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
