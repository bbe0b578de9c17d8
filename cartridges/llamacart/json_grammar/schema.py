"""Grammars of the JSON texts that a JSON Schema allows.

Every text of such a grammar is valid JSON and valid under the schema. Not every valid text can be
written: properties come in the order of the schema, none is added unless `additionalProperties`
says so or schemas are combined, integers lie within ±2⁵³, and white space is short. A keyword
that cannot be kept is refused, or relaxed where the caller says so.

`llamacart.json_grammar.rewriter` brings a schema into the form that llguidance keeps exactly; here
it is tried out, and what llguidance refuses is traced to its place.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llamacart.errors import InputError
from llamacart.json_grammar.grammar import grammar_text, reason_against
from llamacart.json_grammar.keywords import refusal, short
from llamacart.json_grammar.rewriter import Rewritten, rewrite

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 2**20
"""Of a schema as JSON text."""
_MAX_PROBES = 64
_MAX_REPAIRS = 8
_WHOLE = "start: @value"
_WHITE_SPACE = r" |\n[ \t]{0,20}"
_ESCAPES = 'nrbtf\\"'


def object_grammar() -> str:
    """The grammar of all JSON objects."""
    return schema_grammar({"type": "object"})


def schema_grammar(schema: object) -> str:
    """The grammar of the JSON texts that `schema` allows. Slow for a large one.

    Args:
        schema: A JSON Schema as Python's `json` reads it.

    Raises:
        InputError: It is no schema, or uses what is not supported; the message says where.
    """
    part, _ = schema_part(schema)
    return grammar_text(_WHOLE, {"value": part})


def schema_part(schema: object, *, relaxed: bool = False) -> tuple[dict[str, Any], list[str]]:
    """A part for `grammar_text`: the JSON texts that `schema` allows.

    Args:
        schema: As for `schema_grammar`.
        relaxed: Leave out what cannot be kept, so that more texts are allowed than by the schema.

    Returns:
        The part, which must not be changed, and what was left out, each with its place.

    Raises:
        InputError: It is no schema, or cannot be kept.
    """
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        n_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise refusal("#", "holds half of a surrogate pair") from None
    except (ValueError, TypeError, RecursionError):
        raise refusal("#", "holds what JSON has not, or nests too deep") from None
    if n_bytes > MAX_BYTES:
        raise refusal("#", f"has {n_bytes} bytes; at most {MAX_BYTES} are read")
    part, notes = _part(text, relaxed)
    return part, list(notes)


@lru_cache(maxsize=32)
def _part(text: str, relaxed: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    notes: list[str] | None = [] if relaxed else None
    rewritten = rewrite(json.loads(text), notes)
    for _ in range(_MAX_REPAIRS):
        reason = _reason_against(rewritten, rewritten.root)
        if reason is None:
            break
        node, where = _culprit(rewritten, reason)
        if notes is None:
            raise refusal(where, f"cannot be kept: {reason}")
        notes.append(f"{where}: {short(node)}")
        _loosen(node)
    else:
        raise refusal("#", f"cannot be kept: {reason}")
    return _with_options(rewritten, rewritten.root), tuple(notes or ())


def _with_options(rewritten: Rewritten, node: Any) -> dict[str, Any]:
    # Where some names have a schema of their own, "\u0061" would be a second spelling of "a".
    escapes = _ESCAPES if rewritten.has_open_names else f"{_ESCAPES}u"
    options = {"whitespace_pattern": _WHITE_SPACE, "json_allowed_escapes": escapes}
    whole = node if isinstance(node, dict) else {}
    return {**whole, "$defs": rewritten.definitions, "x-guidance": options}


def _reason_against(rewritten: Rewritten, node: Any) -> str | None:
    return reason_against(grammar_text(_WHOLE, {"value": _with_options(rewritten, node)}))


def _culprit(rewritten: Rewritten, reason: str) -> tuple[dict[str, Any], str]:
    """The innermost schema that is refused by itself, and where it lies."""
    node, where = rewritten.root, "#"
    left = _MAX_PROBES
    seen: set[str] = set()
    while True:
        refused: list[tuple[bool, dict[str, Any], str]] = []
        for child, place in _children(node, where, rewritten):
            if place in seen or not isinstance(child, dict) or not left:
                continue
            seen.add(place)
            left -= 1
            own = _reason_against(rewritten, child)
            if own is not None:
                refused.append((own != reason, child, place))
        if not refused:
            return node, where
        # An optional member that no text can follow is refused by itself, and does no harm.
        _, node, where = min(refused, key=lambda found: found[0])


def _children(node: dict[str, Any], where: str, rewritten: Rewritten) -> Iterator[tuple[Any, str]]:
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        yield rewritten.definitions[name], rewritten.origins[name]
    for key in ("properties", "patternProperties"):
        for name, child in node.get(key, {}).items():
            yield child, f"{where}/{key}/{name}"
    for key in ("items", "additionalProperties"):
        if key in node:
            yield node[key], f"{where}/{key}"
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for i, child in enumerate(node.get(key, ())):
            yield child, f"{where}/{key}/{i}"


def _loosen(node: dict[str, Any]) -> None:
    """Leave of a schema no more than its type."""
    kept = {key: node[key] for key in ("type",) if key in node}
    node.clear()
    node.update(kept)


def parse_schema(text: str) -> Any:
    """A schema that is given as JSON text.

    Raises:
        InputError: It is no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the schema is no JSON: {error}") from None
