"""Brings a JSON Schema into a form that llguidance keeps exactly, or says where it cannot be.

llguidance passes over some keywords, takes options from a schema and departs from the
specification in places; so it is given only what is known to be kept. References become
definitions of their own, and objects that name properties are closed unless they say otherwise.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from llamacart.json_grammar.ends import endless
from llamacart.json_grammar.grammar import grammar_text, reason_against
from llamacart.json_grammar.keywords import (
    ANNOTATIONS,
    COMBINERS,
    COUNTS,
    FORMATS,
    KNOWN,
    MAX_INTEGER,
    NUMERIC,
    OF_TYPE,
    PATTERNS,
    are_disjoint,
    check_count,
    check_listed,
    check_number,
    distinct,
    means_nothing,
    narrowed,
    refusal,
    short,
    types_of,
)
from llamacart.json_grammar.references import is_local, resolve

MAX_DEPTH = 64
"""Schemas within schemas, references followed once included."""
MAX_PROPERTIES = 1000
"""Of one object; more would make its tokens slow."""
MAX_COMBINED = 12
"""Patterns and formats in schemas that are combined: the work doubles with each."""
_COSTLY = OF_TYPE["string"] | NUMERIC
_MAX_PATTERN = 4096
"""Characters of a pattern."""


@dataclass
class Rewritten:
    """A schema for llguidance.

    Attributes:
        root: The schema.
        definitions: What its references `#/$defs/…` refer to.
        origins: Where each definition was, as a JSON pointer.
        has_open_names: Whether an object names or describes properties and takes others too.
    """

    root: Any = True
    definitions: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    has_open_names: bool = False


def rewrite(schema: Any, notes: list[str] | None = None) -> Rewritten:
    """Rewrite a schema.

    Args:
        schema: As Python's `json` reads it; not changed.
        notes: Takes what was left out because it cannot be kept; None to refuse instead.

    Raises:
        InputError: It is no schema, or cannot be kept; the message says where.
    """
    rewriter = _Rewriter(schema, notes)
    out = rewriter.out
    out.root = rewriter.value(schema, "#", 0)
    for name in endless(out.definitions):
        if notes is None:
            raise refusal(out.origins[name], "leads only to itself, so that no text ends")
        notes.append(f"{out.origins[name]}: leads only to itself")
        out.definitions[name] = {}
    return out


class _Rewriter:
    def __init__(self, document: Any, notes: list[str] | None) -> None:
        self.out = Rewritten()
        self._document = document
        self._notes = notes
        self._names: dict[tuple[str, bool], str] = {}
        self._leaves: dict[str, str] = {}
        self._n_combined = 0

    def value(self, schema: Any, where: str, depth: int, *, closed: bool = True) -> Any:
        """A schema that lies at `where`; `closed` if its objects take no unnamed properties."""
        if depth > MAX_DEPTH:
            raise refusal(where, f"lies more than {MAX_DEPTH} schemas deep")
        if schema is True:
            return {}
        if not isinstance(schema, dict):
            raise refusal(where, f"is {short(schema)}; an object or true is needed")
        if depth and isinstance(schema.get("$id"), str):
            self._leave_out(where, "has '$id' within, which is not supported")
        schema = self._known(schema, where)
        # The parts of a combination describe the same object: none of them can close it.
        parts = [k for k in ("$ref", "anyOf", "oneOf") if k in schema] + list(
            schema["allOf"] if isinstance(schema.get("allOf"), list) else ()
        )
        combined = bool(parts) and len(parts) + bool(schema.keys() - {"type", *COMBINERS}) > 1
        closed = closed and not combined
        if closed:
            schema = narrowed(schema)
        types = types_of(schema, where)
        out: dict[str, Any] = {}
        for key in schema:
            _add(out, self._keyword(key, schema, types, where, depth, closed))
        if "integer" in types and "number" not in types:
            out.setdefault("minimum", -MAX_INTEGER)
            out.setdefault("maximum", MAX_INTEGER)
        return self._shared(out, where) if depth else out

    def _shared(self, node: dict[str, Any], where: str) -> dict[str, Any]:
        """A reference to the one definition of equal numbers and strings: each costs anew."""
        if not node.keys() & _COSTLY or node.keys() - _COSTLY - {"type"}:
            return node
        text = json.dumps(node, sort_keys=True)
        name = self._leaves.setdefault(text, f"leaf{len(self._leaves)}")
        self.out.origins.setdefault(name, where)
        self.out.definitions[name] = node
        return {"$ref": f"#/$defs/{name}"}

    def _known(self, schema: dict[str, Any], where: str) -> dict[str, Any]:
        """The keywords that matter, in order; what is not known is refused or left out."""
        out = {}
        for key, value in schema.items():
            if key in KNOWN:
                out[key] = value
            elif key not in ANNOTATIONS and not means_nothing(key, value, schema):
                self._leave_out(where, f"has {short(key)}, which is not supported")
        kind = out.get("type")
        if schema.get("nullable") is True and isinstance(kind, str):
            out["type"] = [kind, "null"]  # OpenAPI's, which is meant even where it is not known
        if isinstance(out.get("items"), list):
            out = self._tuple(out, schema)
        for key in (*COUNTS["string"], *COUNTS["array"], *COUNTS["object"], *NUMERIC):
            if key in out and out[key] is None:
                del out[key]  # as if it were absent: some programs write all keywords
        return out

    def _leave_out(self, where: str, what: str) -> dict[str, Any]:
        """Refuse, or note that something is left out."""
        if self._notes is None:
            raise refusal(where, what)
        self._notes.append(f"{where} {what}")
        return {}

    @staticmethod
    def _tuple(schema: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """`items` with a list, as drafts before 2020 have it."""
        rest = {"items": given["additionalItems"]} if "additionalItems" in given else {}
        out = {key: value for key, value in schema.items() if key != "items"}
        return {**out, "prefixItems": schema["items"], **rest}

    # --- keywords ---------------------------------------------------------------------------

    def _keyword(
        self, key: str, schema: Any, types: list[str], where: str, depth: int, closed: bool
    ) -> dict[str, Any]:
        """What a keyword becomes; those of objects become so together, with the first."""
        value = schema[key]
        if key in ("anyOf", "oneOf", "allOf"):
            return self._combination(key, value, where, depth, closed)
        if key == "$ref":
            return self._reference(value, where, depth, closed)
        if key in ("enum", "const"):
            return self._listed(key, value, where)
        if key in OF_TYPE["object"]:
            first = next(k for k in schema if k in OF_TYPE["object"])
            return self._object(schema, where, depth, closed) if key == first else {}
        if key in OF_TYPE["array"]:
            return self._array(key, value, where, depth)
        if key in NUMERIC:
            wrong = check_number(key, value)
        elif key in COUNTS["string"]:
            wrong = check_count(key, value)
            value = value if wrong else int(value)
        elif key in ("pattern", "format"):
            return self._string(key, value, types, where, closed)
        else:
            return {"type": types}
        return self._leave_out(where, wrong) if wrong else {key: value}

    def _combination(
        self, key: str, parts: Any, where: str, depth: int, closed: bool
    ) -> dict[str, Any]:
        where = f"{where}/{key}"
        if not isinstance(parts, list) or not parts:
            raise refusal(where, f"is {short(parts)}; a list of schemas is needed")
        told_apart = key == "oneOf" and are_disjoint(
            parts, lambda reference: resolve(self._document, reference, where), where
        )
        if key == "oneOf" and self._notes is not None and not told_apart:
            self._leave_out(where, "has alternatives that may be equal")
            told_apart = True
        children = [
            self.value(part, f"{where}/{i}", depth + 1, closed=closed)
            for i, part in enumerate(parts)
        ]
        return {"anyOf" if told_apart else key: children}

    def _reference(self, reference: Any, where: str, depth: int, closed: bool) -> dict[str, Any]:
        if self._notes is not None and isinstance(reference, str) and not is_local(reference):
            return self._leave_out(where, f"refers to {short(reference)}, which is not read")
        target = resolve(self._document, reference, where)
        name = self._names.get((reference, closed))
        if name is None:
            name = self._names[reference, closed] = f"r{len(self._names)}"
            self.out.origins[name] = reference
            self.out.definitions[name] = {}
            self.out.definitions[name] = self.value(target, reference, depth + 1, closed=closed)
        return {"$ref": f"#/$defs/{name}"}

    def _listed(self, key: str, given: Any, where: str) -> dict[str, Any]:
        values = [given] if key == "const" else given
        if not isinstance(values, list) or not values:
            raise refusal(where, f"has {key} {short(given)}; a list of values is needed")
        wrong = next(filter(None, map(check_listed, values)), None)
        if wrong:
            return self._leave_out(where, f"{wrong} in its {key}")
        # An equal value twice would be two ways to read it.
        return {key: given if key == "const" else distinct(values)}

    def _string(
        self, key: str, value: Any, types: list[str], where: str, closed: bool
    ) -> dict[str, Any]:
        if "string" not in types:
            return {}
        self._n_combined += not closed
        if self._n_combined > MAX_COMBINED:
            return self._leave_out(where, f"is one of more than {MAX_COMBINED} combined patterns")
        if not isinstance(value, str):
            raise refusal(where, f"has {key} {short(value)}; a string is needed")
        if key == "pattern":
            reason = _reason_against_pattern(value)
            if reason:
                return self._leave_out(where, f"has pattern {short(value)}: {reason}")
            return {"pattern": value}
        if value in PATTERNS:
            return {"pattern": PATTERNS[value]}
        if value in FORMATS:
            return {"format": value}
        return self._leave_out(where, f"has format {short(value)}, which is not supported")

    # --- arrays and objects -----------------------------------------------------------------

    def _array(self, key: str, value: Any, where: str, depth: int) -> dict[str, Any]:
        if key in COUNTS["array"]:
            wrong = check_count(key, value)
            return self._leave_out(where, wrong) if wrong else {key: int(value)}
        if key == "items":
            return {key: self._or_none(value, f"{where}/items", depth)}
        if not isinstance(value, list):
            raise refusal(where, f"has prefixItems {short(value)}; a list is needed")
        return {
            key: [self._or_none(v, f"{where}/prefixItems/{i}", depth) for i, v in enumerate(value)]
        }

    def _or_none(self, schema: Any, where: str, depth: int) -> Any:
        return False if schema is False else self.value(schema, where, depth + 1)

    def _object(self, schema: Any, where: str, depth: int, closed: bool) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key in COUNTS["object"]:
            wrong = check_count(key, schema[key]) if key in schema else None
            if wrong:
                self._leave_out(where, wrong)
            elif key in schema:
                out[key] = int(schema[key])
        properties = self._members("properties", schema, where, depth)
        patterns = self._members("patternProperties", schema, where, depth)
        for pattern in list(patterns):
            reason = _reason_against_pattern(pattern)
            if reason:
                self._leave_out(where, f"has patternProperties {short(pattern)}: {reason}")
                del patterns[pattern]
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise refusal(where, f"has required {short(required)}; a list of names is needed")
        given = "additionalProperties" in schema
        other = schema.get("additionalProperties", True)
        if not given and closed and (properties or patterns):
            if not patterns:
                properties.update({name: {} for name in required if name not in properties})
            other = False
        if len(properties) > MAX_PROPERTIES:
            raise refusal(where, f"has {len(properties)} properties; at most {MAX_PROPERTIES} work")
        if other is not False and (properties or patterns):
            self.out.has_open_names = True
        if properties:
            out["properties"] = properties
        if patterns:
            out["patternProperties"] = patterns
        if required:
            out["required"] = list(dict.fromkeys(required))
        out["additionalProperties"] = self._or_none(other, f"{where}/additionalProperties", depth)
        return out

    def _members(self, key: str, schema: Any, where: str, depth: int) -> dict[str, Any]:
        members = schema.get(key, {})
        if not isinstance(members, dict):
            raise refusal(where, f"has {key} {short(members)}; an object is needed")
        return {
            name: self._or_none(member, f"{where}/{key}/{name}", depth)
            for name, member in members.items()
        }


def _add(out: dict[str, Any], more: dict[str, Any]) -> None:
    """Put keywords into a schema; where one is there already, both must hold."""
    for key, value in more.items():
        if key == "allOf":
            out.setdefault(key, []).extend(value)
        elif key in out:
            out.setdefault("allOf", []).append({key: value})
        else:
            out[key] = value


@lru_cache(maxsize=256)
def _reason_against_pattern(pattern: str) -> str | None:
    if len(pattern) > _MAX_PATTERN:
        return f"it has {len(pattern)} characters, and at most {_MAX_PATTERN} are supported"
    part = {"type": "string", "pattern": pattern}
    return reason_against(grammar_text("start: @value", {"value": part}))
