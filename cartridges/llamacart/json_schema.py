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

from llamacart.gbnf import check_grammar
from llamacart.json_rules import BASE_RULES, FORMATS
from llamacart.schema_keywords import (
    ANNOTATIONS,
    BOUNDS,
    COMBINERS,
    KNOWN,
    OF_TYPE,
    check_disjoint,
    counts_of,
    integer_rule,
    json_text,
    refusal,
    short,
    type_of,
    types_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_DEPTH = 64
"""Schemas within schemas, references followed once included."""


def object_grammar() -> str:
    """The grammar of all JSON objects."""
    return grammar_text({"root": "object"})


def schema_grammar(schema: object) -> str:
    """The grammar of the JSON texts that `schema` allows.

    Args:
        schema: A JSON Schema as Python's `json` reads it.

    Raises:
        InputError: It is no schema, or uses what is not supported; the message says where.
    """
    rules, root = schema_rules(schema)
    return grammar_text({**rules, "root": root})


def schema_rules(schema: object, prefix: str = "") -> tuple[dict[str, str], str]:
    """Rules for what `schema` allows, to be used with `BASE_RULES`, and the name of the topmost.

    Args:
        schema: As for `schema_grammar`.
        prefix: Begins the names of all rules.
    """
    compiler = _Compiler(schema, prefix)
    root = compiler.value(schema, "#", 0)
    return compiler.rules, root


def grammar_text(rules: dict[str, str]) -> str:
    """A grammar of `rules` and `BASE_RULES`, checked."""
    text = "".join(f"{name} ::= {body}\n" for name, body in {**BASE_RULES, **rules}.items())
    check_grammar(text)
    return text


def literal(text: str) -> str:
    """GBNF for `text` itself."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


class _Compiler:
    """Makes rules for the parts of one schema."""

    def __init__(self, document: object, prefix: str) -> None:
        self.rules: dict[str, str] = {}
        self._document = document
        self._prefix = prefix
        self._names: dict[str, str] = {}  # by body
        self._references: dict[str, str] = {}

    def _rule(self, body: str) -> str:
        """The name of a rule with this body."""
        if body not in self._names:
            name = f"{self._prefix}r{len(self._names)}"
            self._names[body] = name
            self.rules[name] = body
        return self._names[body]

    def _either(self, parts: Iterable[str]) -> str:
        return self._rule(" | ".join(dict.fromkeys(parts)))

    def value(self, schema: Any, where: str, depth: int) -> str:
        """The name of the rule for what `schema`, which lies at `where`, allows."""
        if depth > MAX_DEPTH:
            raise refusal(where, f"lies more than {MAX_DEPTH} schemas deep")
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            raise refusal(where, f"is {short(schema)}; an object or true is needed")
        keys = {key for key in schema if key not in ANNOTATIONS}
        unknown = sorted(keys - KNOWN)
        if unknown:
            raise refusal(where, f"has {unknown[0]!r}, which is not supported")
        for combiner in COMBINERS:
            if combiner in keys:
                self._check_alone(combiner, keys, where)
                return self._combined(combiner, schema[combiner], f"{where}/{combiner}", depth)
        types = types_of(schema, keys, where)
        for listing in ("const", "enum"):
            if listing in keys:
                self._check_alone(listing, keys - {"type"}, where)
                return self._listed(schema[listing], listing, types, where)
        return self._either(self._typed(t, schema, keys, where, depth) for t in types)

    def _check_alone(self, keyword: str, keys: set[str], where: str) -> None:
        others = sorted(keys - {keyword})
        if others:
            raise refusal(where, f"has {others[0]!r} beside {keyword!r}, which is not supported")

    # --- combinations -----------------------------------------------------------------------

    def _combined(self, combiner: str, parts: Any, where: str, depth: int) -> str:
        if combiner == "$ref":
            return self._referred(parts, where, depth)
        if not isinstance(parts, list) or not parts:
            raise refusal(where, f"is {short(parts)}; a list of schemas is needed")
        if combiner == "allOf" and len(parts) > 1:
            raise refusal(where, "has more than one schema, which is not supported")
        if combiner == "oneOf":
            check_disjoint(parts, lambda reference: self._resolve(reference, where), where)
        return self._either(
            self.value(part, f"{where}/{i}", depth + 1) for i, part in enumerate(parts)
        )

    def _referred(self, reference: Any, where: str, depth: int) -> str:
        target = self._resolve(reference, where)
        if reference not in self._references:
            name = f"{self._prefix}ref{len(self._references)}"
            self._references[reference] = name
            self.rules[name] = self.value(target, reference, depth + 1)
        return self._references[reference]

    def _resolve(self, reference: Any, where: str) -> Any:
        if not isinstance(reference, str) or not (reference + "/").startswith("#/"):
            raise refusal(where, f"is {short(reference)}; only '#/…' is supported")
        target: Any = self._document
        for part in reference.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and key.isdecimal() and int(key) < len(target):
                target = target[int(key)]
            elif isinstance(target, dict) and key in target:
                target = target[key]
            else:
                raise refusal(where, f"refers to {reference!r}, which does not exist")
        return target

    # --- values -----------------------------------------------------------------------------

    def _listed(self, given: Any, keyword: str, types: list[str], where: str) -> str:
        values = [given] if keyword == "const" else given
        if not isinstance(values, list) or not values:
            raise refusal(where, f"has {keyword} {short(given)}; a list of values is needed")
        allowed = {*types, "integer"} if "number" in types else set(types)
        fitting = [value for value in values if type_of(value) in allowed]
        if not fitting:
            raise refusal(where, f"has no value in its {keyword} that is of its type")
        try:
            return self._either(literal(json_text(value)) for value in fitting)
        except ValueError:
            raise refusal(where, f"has a number in its {keyword} that JSON has not") from None

    def _typed(self, kind: str, schema: Any, keys: set[str], where: str, depth: int) -> str:
        if not keys & OF_TYPE[kind]:
            return kind
        match kind:
            case "object":
                return self._object(schema, where, depth)
            case "array":
                return self._array(schema, where, depth)
            case "string":
                return self._string(schema, where)
            case "integer":
                return self._rule(integer_rule(schema, where))
            case _:
                bound = min(keys & BOUNDS)
                raise refusal(where, f"has {bound!r} of a number, which is not supported")

    def _string(self, schema: Any, where: str) -> str:
        form = schema.get("format")
        low, high = counts_of(schema, "minLength", "maxLength", where)
        if form is None:
            most = "" if high is None else high
            return self._rule(rf'"\"" char{{{low},{most}}} "\""')
        if not isinstance(form, str) or form not in FORMATS:
            raise refusal(where, f"has format {short(form)}, which is not supported")
        if low or high is not None:
            raise refusal(where, "has a length beside its format, which is not supported")
        return self._rule(rf'"\"" {FORMATS[form]} "\""')

    def _array(self, schema: Any, where: str, depth: int) -> str:
        low, high = counts_of(schema, "minItems", "maxItems", where)
        prefix = schema.get("prefixItems", [])
        if not isinstance(prefix, list):
            raise refusal(where, f"has prefixItems {short(prefix)}; a list is needed")
        elements = [
            self._rule(self.value(item, f"{where}/prefixItems/{i}", depth + 1) + " ws")
            for i, item in enumerate(prefix)
        ][:high]
        n = len(elements)
        item = schema.get("items", not prefix or low > n)
        if item is False:
            high = n if high is None else min(high, n)
        if high is not None and high < low:
            raise refusal(where, f"asks for at least {low} items and allows {high}")
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
            raise refusal(where, f"has properties {short(properties)}; an object is needed")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise refusal(where, f"has required {short(required)}; a list of names is needed")
        other = schema.get("additionalProperties", not properties)
        rule = ""
        missing = [name for name in required if name not in properties]
        if other is not False:
            rule = self.value(other, f"{where}/additionalProperties", depth + 1)
        elif missing and "additionalProperties" in schema:
            raise refusal(where, f"requires {missing[0]!r}, which it does not allow")
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
            member = self._rule(f'{literal(json_text(name))} ":" ws {value} ws')
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
                ways.append(f"{literal(character)} {self._unlike(trie[character])}")
        but = "".join(f"\\U{ord(character):08X}" for character in taken)
        ways.append(rf'[^"\\\x00-\x1F\x7F{but}] keychar*')
        return self._either(ways)
