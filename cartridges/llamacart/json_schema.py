"""A GBNF grammar of the JSON texts that a JSON Schema allows.

Every text of the grammar is valid JSON and valid under the schema. Not every valid text can be
written: properties come in the order of the schema, none is added unless `additionalProperties`
says so, numbers have at most 16 digits before and after the point, and white space is
short. A keyword that cannot be kept is refused.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from llamacart.errors import InputError
from llamacart.gbnf import MAX_REPEAT, check_grammar
from llamacart.gbnf_ranges import integers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_DEPTH = 64
"""Schemas within schemas, references not counted."""

_ANNOTATIONS = frozenset(
    [
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("$schema", "$id", "$comment", "$defs", "definitions", "discriminator"),
    ]
)
_COMBINERS = ("$ref", "anyOf", "oneOf", "allOf")
_BOUNDS = frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"])
_OF_TYPE = {
    "object": frozenset(["properties", "required", "additionalProperties"]),
    "array": frozenset(["items", "prefixItems", "minItems", "maxItems"]),
    "string": frozenset(["minLength", "maxLength", "format"]),
    "integer": _BOUNDS,
    "number": _BOUNDS,
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
_KNOWN = frozenset(["type", "enum", "const", *_COMBINERS]).union(*_OF_TYPE.values())

_BASE = {
    "ws": r'| " " | "\n" [ \t]{0,20}',
    "hex": r"[0-9a-fA-F]",
    # A surrogate can only be written as an escape, which might be left without its other half.
    "char": r'[^"\\\x00-\x1F\x7F] | "\\" '
    r'(["\\/bfnrt] | "u" ([0-9a-cefA-CEF] hex hex hex | [dD] [0-7] hex hex))',
    "keychar": r'[^"\\\x00-\x1F\x7F]',
    "string": r'"\"" char* "\""',
    "integer": r'"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": r'integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": r'"true" | "false"',
    "null": r'"null"',
    "value": r"object | array | string | number | boolean | null",
    "object": r'"{" ws (member ("," ws member)*)? "}"',
    "member": r'string ":" ws value ws',
    "array": r'"[" ws (element ("," ws element)*)? "]"',
    "element": r"value ws",
}
_YEAR = "[0-9]{4}"
_DATE = (
    f'{_YEAR} "-" (("0" [13578] | "10" | "12") "-" ("0" [1-9] | [12] [0-9] | "3" [01]) | '
    '("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30") | '
    '"02-" ("0" [1-9] | "1" [0-9] | "2" [0-8]))'
)
_CLOCK = '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]'
_TIME = f'{_CLOCK} ":" [0-5] [0-9] ("." [0-9]{{1,6}})? ("Z" | [-+] {_CLOCK})'
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f'{_DATE} "T" {_TIME}',
    "uuid": 'hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}',
}


def object_grammar() -> str:
    """The grammar of all JSON objects."""
    return _text({**_BASE, "root": "object"})


def schema_grammar(schema: object) -> str:
    """The grammar of the JSON texts that `schema` allows.

    Args:
        schema: A JSON Schema as Python's `json` reads it.

    Raises:
        InputError: It is no schema, or uses what is not supported; the message says where.
    """
    compiler = _Compiler(schema)
    root = compiler.value(schema, "#", 0)
    text = _text({**_BASE, **compiler.rules, "root": root})
    check_grammar(text)
    return text


def _text(rules: dict[str, str]) -> str:
    return "".join(f"{name} ::= {body}\n" for name, body in rules.items())


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _refusal(where: str, what: str) -> InputError:
    return InputError(f"the schema at {where} {what}")


class _Compiler:
    """Makes rules for the parts of one schema."""

    def __init__(self, document: object) -> None:
        self.rules: dict[str, str] = {}
        self._document = document
        self._names: dict[str, str] = {}  # by body
        self._references: dict[str, str] = {}

    def _rule(self, body: str) -> str:
        """The name of a rule with this body."""
        if body not in self._names:
            name = f"r{len(self._names)}"
            self._names[body] = name
            self.rules[name] = body
        return self._names[body]

    def _either(self, parts: Iterable[str]) -> str:
        return self._rule(" | ".join(dict.fromkeys(parts)))

    def value(self, schema: Any, where: str, depth: int) -> str:
        """The name of the rule for what `schema`, which lies at `where`, allows."""
        if depth > MAX_DEPTH:
            raise _refusal(where, f"lies more than {MAX_DEPTH} schemas deep")
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            raise _refusal(where, f"is {_short(schema)}; an object or true is needed")
        keys = {key for key in schema if key not in _ANNOTATIONS}
        unknown = sorted(keys - _KNOWN)
        if unknown:
            raise _refusal(where, f"has {unknown[0]!r}, which is not supported")
        for combiner in _COMBINERS:
            if combiner in keys:
                self._check_alone(combiner, keys, where)
                return self._combined(combiner, schema[combiner], f"{where}/{combiner}", depth)
        types = _types(schema, keys, where)
        for listing in ("const", "enum"):
            if listing in keys:
                self._check_alone(listing, keys - {"type"}, where)
                return self._listed(schema[listing], listing, types, where)
        return self._either(self._typed(t, schema, keys, where, depth) for t in types)

    def _check_alone(self, keyword: str, keys: set[str], where: str) -> None:
        others = sorted(keys - {keyword})
        if others:
            raise _refusal(where, f"has {others[0]!r} beside {keyword!r}, which is not supported")

    # --- combinations -----------------------------------------------------------------------

    def _combined(self, combiner: str, parts: Any, where: str, depth: int) -> str:
        if combiner == "$ref":
            return self._referred(parts, where, depth)
        if not isinstance(parts, list) or not parts:
            raise _refusal(where, f"is {_short(parts)}; a list of schemas is needed")
        if combiner == "allOf" and len(parts) > 1:
            raise _refusal(where, "has more than one schema, which is not supported")
        if combiner == "oneOf":
            self._check_disjoint(parts, where)
        return self._either(
            self.value(part, f"{where}/{i}", depth + 1) for i, part in enumerate(parts)
        )

    def _referred(self, reference: Any, where: str, depth: int) -> str:
        target = self._resolve(reference, where)
        if reference not in self._references:
            name = self._references[reference] = f"ref{len(self._references)}"
            self.rules[name] = self.value(target, reference, depth + 1)
        return self._references[reference]

    def _resolve(self, reference: Any, where: str) -> Any:
        if not isinstance(reference, str) or not (reference + "/").startswith("#/"):
            raise _refusal(where, f"is {_short(reference)}; only '#/…' is supported")
        target: Any = self._document
        for part in reference.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and key.isdecimal() and int(key) < len(target):
                target = target[int(key)]
            elif isinstance(target, dict) and key in target:
                target = target[key]
            else:
                raise _refusal(where, f"refers to {reference!r}, which does not exist")
        return target

    def _check_disjoint(self, parts: Sequence[Any], where: str) -> None:
        """Refuse alternatives that may both allow a text: a grammar cannot demand just one."""
        told = [self._told_apart_by(part, where) for part in parts]
        for i, a in enumerate(told):
            for b in told[:i]:
                if not any(a[key].isdisjoint(b[key]) for key in a.keys() & b.keys()):
                    raise _refusal(
                        where,
                        "has alternatives that differ neither in type nor in a required property "
                        "with a const or enum, which is not supported; use anyOf",
                    )

    def _told_apart_by(self, part: Any, where: str) -> dict[str, frozenset[str]]:
        """What is known of a text of `part`: its types, and the values of some properties."""
        for _ in range(MAX_DEPTH):
            if not (isinstance(part, dict) and "$ref" in part):
                break
            part = self._resolve(part["$ref"], where)
        if not isinstance(part, dict) or any(combiner in part for combiner in _COMBINERS):
            return {}
        values = _values(part)
        if values is not None:
            return {"": frozenset(map(_type_of, values)), "=": frozenset(map(_json, values))}
        if "type" not in part:
            return {}
        types = frozenset(_types(part, set(part), where))
        out = {"": types | ({"integer"} if "number" in types else frozenset())}
        properties, required = part.get("properties"), part.get("required")
        if types == {"object"} and isinstance(properties, dict) and isinstance(required, list):
            for name, schema in properties.items():
                values = _values(schema) if isinstance(schema, dict) else None
                if name in required and values is not None:
                    out[f"/{name}"] = frozenset(map(_json, values))
        return out

    # --- values -----------------------------------------------------------------------------

    def _listed(self, given: Any, keyword: str, types: list[str], where: str) -> str:
        values = [given] if keyword == "const" else given
        if not isinstance(values, list) or not values:
            raise _refusal(where, f"has {keyword} {_short(given)}; a list of values is needed")
        allowed = {*types, "integer"} if "number" in types else set(types)
        fitting = [value for value in values if _type_of(value) in allowed]
        if not fitting:
            raise _refusal(where, f"has no value in its {keyword} that is of its type")
        try:
            return self._either(_literal(_json(value)) for value in fitting)
        except ValueError:
            raise _refusal(where, f"has a number in its {keyword} that JSON has not") from None

    def _typed(self, kind: str, schema: Any, keys: set[str], where: str, depth: int) -> str:
        if not keys & _OF_TYPE[kind]:
            return kind
        match kind:
            case "object":
                return self._object(schema, where, depth)
            case "array":
                return self._array(schema, where, depth)
            case "string":
                return self._string(schema, where)
            case "integer":
                return self._rule(_integer(schema, where))
            case _:
                bound = min(keys & _BOUNDS)
                raise _refusal(where, f"has {bound!r} of a number, which is not supported")

    def _string(self, schema: Any, where: str) -> str:
        form = schema.get("format")
        low, high = _counts(schema, "minLength", "maxLength", where)
        if form is None:
            most = "" if high is None else high
            return self._rule(rf'"\"" char{{{low},{most}}} "\""')
        if not isinstance(form, str) or form not in _FORMATS:
            raise _refusal(where, f"has format {_short(form)}, which is not supported")
        if low or high is not None:
            raise _refusal(where, "has a length beside its format, which is not supported")
        return self._rule(rf'"\"" {_FORMATS[form]} "\""')

    def _array(self, schema: Any, where: str, depth: int) -> str:
        low, high = _counts(schema, "minItems", "maxItems", where)
        prefix = schema.get("prefixItems", [])
        if not isinstance(prefix, list):
            raise _refusal(where, f"has prefixItems {_short(prefix)}; a list is needed")
        elements = [
            self._rule(self.value(item, f"{where}/prefixItems/{i}", depth + 1) + " ws")
            for i, item in enumerate(prefix)
        ][:high]
        n = len(elements)
        item = schema.get("items", not prefix or low > n)
        if item is False:
            high = n if high is None else min(high, n)
        if high is not None and high < low:
            raise _refusal(where, f"asks for at least {low} items and allows {high}")
        rest = ""
        if item is not False and high != n:
            element = self._rule(self.value(item, f"{where}/items", depth + 1) + " ws")
            if not elements:
                elements, n = [element], 1
            if high != n:
                most = "" if high is None else high - n
                rest = f'("," ws {element}){{{max(low - n, 0)},{most}}}'
        for i in reversed(range(n)):
            comma = '"," ws ' if i else ""
            more = self._rule(f"{comma}{elements[i]} {rest}")
            rest = more if i < low else f"{more}?"
        return self._rule(f'"[" ws {rest} "]"')

    # --- objects ----------------------------------------------------------------------------

    def _object(self, schema: Any, where: str, depth: int) -> str:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, dict):
            raise _refusal(where, f"has properties {_short(properties)}; an object is needed")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise _refusal(where, f"has required {_short(required)}; a list of names is needed")
        other = schema.get("additionalProperties", not properties)
        rule = ""
        missing = [name for name in required if name not in properties]
        if other is not False:
            rule = self.value(other, f"{where}/additionalProperties", depth + 1)
        elif missing and "additionalProperties" in schema:
            raise _refusal(where, f"requires {missing[0]!r}, which it does not allow")
        members = [
            (name, self.value(value, f"{where}/properties/{name}", depth + 1))
            for name, value in properties.items()
        ]
        members += [(name, rule or "value") for name in dict.fromkeys(missing)]
        start = after = ""  # of what may follow: at the beginning, and after a member
        if rule:
            key = self._key_but([name for name, _ in members])
            more = self._rule(f'"\\"" {key} "\\"" ":" ws {rule} ws')
            after = self._rule(f'("," ws {more})*')
            start = self._rule(f"({more} {after})?")
        for name, value in reversed(members):
            member = self._rule(f'{_literal(_json(name))} ":" ws {value} ws')
            if name in required:
                start, after = f"{member} {after}", f'"," ws {member} {after}'
            else:
                # An alternative that is empty must not come last: it would go on in the next line.
                start = f"{member} {after} | {start}" if start else f"({member} {after})?"
                after = f'("," ws {member})? {after}'
            start, after = self._rule(start), self._rule(after)
        return self._rule(f'"{{" ws {start} "}}"')

    def _key_but(self, names: Iterable[str]) -> str:
        """The inside of a key that is none of `names`.

        It has no escapes, by which a name might be spelled in another way.
        """
        trie: dict[str, Any] = {}
        for name in names:
            node = trie
            for character in name:
                node = node.setdefault(character, {})
            node[""] = {}
        return self._unlike(trie)

    def _unlike(self, trie: dict[str, Any]) -> str:
        ways = [] if "" in trie else [""]
        taken = [character for character in trie if character]
        for character in taken:
            if json.dumps(character, ensure_ascii=False)[1:-1] == character != "\x7f":
                ways.append(f"{_literal(character)} {self._unlike(trie[character])}")
        but = "".join(f"\\U{ord(character):08X}" for character in taken)
        ways.append(rf'[^"\\\x00-\x1F\x7F{but}] keychar*')
        return self._either(ways)


def _types(schema: Any, keys: set[str], where: str) -> list[str]:
    """The types that a schema without combiners allows."""
    given = schema.get("type")
    if given is None:
        if keys & {"const", "enum"}:
            return list(_OF_TYPE)
        kinds = [k for k in ("object", "array", "string", "number") if keys & _OF_TYPE[k]]
        if len(kinds) > 1:
            raise _refusal(where, f"has keywords of {kinds[0]} and {kinds[1]}, and no type")
        return kinds or [kind for kind in _OF_TYPE if kind != "integer"]
    types = given if isinstance(given, list) else [given]
    for kind in types:
        if not isinstance(kind, str) or kind not in _OF_TYPE:
            raise _refusal(where, f"has type {_short(kind)}; one of {', '.join(_OF_TYPE)} is known")
    if not types:
        raise _refusal(where, "has an empty list of types")
    return types


def _values(schema: dict[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _type_of(value: Any) -> str:
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


def _counts(schema: Any, least: str, most: str, where: str) -> tuple[int, int | None]:
    for name in (least, most):
        value = schema.get(name)
        if value is not None and not (type(value) is int and 0 <= value <= MAX_REPEAT):
            raise _refusal(where, f"has {name} {_short(value)}; 0 to {MAX_REPEAT} is supported")
    low, high = schema.get(least, 0), schema.get(most)
    if high is not None and high < low:
        raise _refusal(where, f"has {least} {low} above {most} {high}")
    return low, high


def _integer(schema: Any, where: str) -> str:
    low, high = None, None
    for name in sorted(_BOUNDS & schema.keys()):
        bound = schema[name]
        if type(bound) is float and bound.is_integer():
            bound = int(bound)
        if type(bound) is not int:
            raise _refusal(where, f"has {name} {_short(bound)}; a whole number is needed")
        if name in ("minimum", "exclusiveMinimum"):
            bound += name == "exclusiveMinimum"
            low = bound if low is None else max(low, bound)
        else:
            bound -= name == "exclusiveMaximum"
            high = bound if high is None else min(high, bound)
    try:
        return integers(low, high)
    except ValueError as error:
        raise _refusal(where, str(error)) from None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
