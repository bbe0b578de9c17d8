"""What the keywords of a JSON Schema say, read with care: a schema comes from a request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llamacart.errors import InputError
from llamacart.gbnf import MAX_REPEAT
from llamacart.json_rules import integers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ANNOTATIONS = frozenset(
    [
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("$schema", "$id", "$comment", "$defs", "definitions", "discriminator"),
    ]
)
COMBINERS = ("$ref", "anyOf", "oneOf", "allOf")
BOUNDS = frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"])
OF_TYPE = {
    "object": frozenset(["properties", "required", "additionalProperties"]),
    "array": frozenset(["items", "prefixItems", "minItems", "maxItems"]),
    "string": frozenset(["minLength", "maxLength", "format"]),
    "integer": BOUNDS,
    "number": BOUNDS,
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
_MAX_REFERENCES = 64
KNOWN = frozenset(["type", "enum", "const", *COMBINERS]).union(*OF_TYPE.values())


def refusal(where: str, what: str) -> InputError:
    """The error for a part of a schema."""
    return InputError(f"the schema at {where} {what}")


def types_of(schema: Any, keys: set[str], where: str) -> list[str]:
    """The types that a schema without combiners allows."""
    given = schema.get("type")
    if given is None:
        if keys & {"const", "enum"}:
            return list(OF_TYPE)
        kinds = [k for k in ("object", "array", "string", "number") if keys & OF_TYPE[k]]
        if len(kinds) > 1:
            raise refusal(where, f"has keywords of {kinds[0]} and {kinds[1]}, and no type")
        return kinds or [kind for kind in OF_TYPE if kind != "integer"]
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


def counts_of(schema: Any, least: str, most: str, where: str) -> tuple[int, int | None]:
    """(minimum, maximum) from two keywords; None means no maximum."""
    for name in (least, most):
        value = schema.get(name)
        if value is not None and not (type(value) is int and 0 <= value <= MAX_REPEAT):
            raise refusal(where, f"has {name} {short(value)}; 0 to {MAX_REPEAT} is supported")
    low, high = schema.get(least) or 0, schema.get(most)
    if high is not None and high < low:
        raise refusal(where, f"has {least} {low} above {most} {high}")
    return low, high


def integer_rule(schema: Any, where: str) -> str:
    """GBNF for the integers within the schema's bounds."""
    low, high = None, None
    for name in sorted(BOUNDS & schema.keys()):
        bound = schema[name]
        if type(bound) is float and bound.is_integer():
            bound = int(bound)
        if type(bound) is not int:
            raise refusal(where, f"has {name} {short(bound)}; a whole number is needed")
        if name in ("minimum", "exclusiveMinimum"):
            bound += name == "exclusiveMinimum"
            low = bound if low is None else max(low, bound)
        else:
            bound -= name == "exclusiveMaximum"
            high = bound if high is None else min(high, bound)
    try:
        return integers(low, high)
    except ValueError as error:
        raise refusal(where, str(error)) from None


def check_disjoint(parts: Sequence[Any], resolve: Callable[[Any], Any], where: str) -> None:
    """Refuse alternatives that may both allow a text: a grammar cannot demand just one.

    Args:
        parts: Schemas.
        resolve: Finds what a `$ref` refers to.
        where: Where they lie.
    """
    told = [_told_apart_by(part, resolve, where) for part in parts]
    for i, a in enumerate(told):
        for b in told[:i]:
            if not any(a[key].isdisjoint(b[key]) for key in a.keys() & b.keys()):
                raise refusal(
                    where,
                    "has alternatives that differ neither in type nor in a required property "
                    "with a const or enum, which is not supported; use anyOf",
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
        return {"": frozenset(map(type_of, values)), "=": frozenset(map(json.dumps, values))}
    if "type" not in part:
        return {}
    types = frozenset(types_of(part, set(part), where))
    out = {"": types | ({"integer"} if "number" in types else frozenset())}
    properties, required = part.get("properties"), part.get("required")
    if types == {"object"} and isinstance(properties, dict) and isinstance(required, list):
        for name, schema in properties.items():
            values = listed_values(schema) if isinstance(schema, dict) else None
            if name in required and values is not None:
                out[f"/{name}"] = frozenset(map(json.dumps, values))
    return out


def json_text(value: Any) -> str:
    """The one way in which a grammar spells a value; ValueError where JSON has no such number."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def short(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
