"""Texts of a schema's grammar are valid under the schema, and what cannot be kept is refused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamacart.errors import InputError
from llamacart.grammar import GrammarSampler
from llamacart.json_rules import integers
from llamacart.json_schema import object_grammar, schema_grammar
from llamacart.model import Model


class Matcher:
    """Reads GBNF text character by character: all the texts a grammar allows, and no other."""

    def __init__(self, grammar: str) -> None:
        self.rules: dict[str, Any] = {}
        for line in grammar.rstrip("\n").split("\n"):
            name, body = line.split(" ::= ", 1)
            self._text, self._at = body, 0
            self.rules[name] = self._alternatives()
            assert self._at == len(body), body[self._at :]

    def _alternatives(self) -> Any:
        out = [self._sequence()]
        while self._text.startswith("|", self._at):
            self._at += 1
            out.append(self._sequence())
        return ("or", out)

    def _sequence(self) -> Any:
        out: list[Any] = []
        while True:
            rest = self._text[self._at :]
            self._at += len(rest) - len(rest.lstrip(" "))
            rest = rest.lstrip(" ")
            if not rest or rest[0] in "|)":
                return ("seq", out)
            if found := re.match(r'"((?:\\.|[^"\\])*)"', rest):
                text = re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), found[1])
                out.append(("text", text))
            elif found := re.match(r"\[((?:\\.|[^\]\\])*)\]", rest):
                out.append(("set", re.compile(found[0])))
            elif rest[0] == "(":
                self._at += 1
                out.append(self._alternatives())
                assert self._text[self._at] == ")"
                self._at += 1
                continue
            elif found := re.match(r"\{(\d+)(,(\d*))?\}|[*+?]", rest):
                low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(
                    found[0], (int(found[1] or 0), int(found[3] or found[1] or 0))
                )
                if found[2] and not found[3]:
                    high = None
                out[-1] = ("many", out[-1], low, high)
            else:
                found = re.match(r"[a-zA-Z0-9-]+", rest)
                assert found, rest
                out.append(("rule", found[0]))
            self._at += found.end()

    def ends(self, node: Any, text: str, at: int) -> set[int]:
        """Where a reading of `node` from `at` may end."""
        match node:
            case ("text", what):
                return {at + len(what)} if text.startswith(what, at) else set()
            case ("set", pattern):
                return {at + 1} if at < len(text) and pattern.match(text[at]) else set()
            case ("rule", name):
                return self.ends(self.rules[name], text, at)
            case ("or", parts):
                return set().union(*(self.ends(part, text, at) for part in parts))
            case ("seq", parts):
                places = {at}
                for part in parts:
                    places = set().union(*(self.ends(part, text, p) for p in places))
                return places
            case ("many", part, low, high):
                out, places, n = ({at} if low == 0 else set()), {at}, 0
                while places and n != high:
                    places = set().union(*(self.ends(part, text, p) for p in places)) - out
                    n += 1
                    if n >= low:
                        out |= places
                return out
        raise AssertionError(node)

    def allows(self, text: str) -> bool:
        return len(text) in self.ends(("rule", "root"), text, 0)


def allows(schema: object, *values: object) -> list[bool]:
    matcher = Matcher(schema_grammar(schema))
    return [matcher.allows(json.dumps(value, ensure_ascii=False)) for value in values]


POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
    "required": ["x"],
}

CASES: list[tuple[object, list[object], list[object]]] = [
    (True, [1, "a", None, [{}], {"a": [1, "b"]}], []),
    ({}, [1.5, "a", True, {"a": {}}], []),
    ({"description": "anything"}, [[], -0.5e3], []),
    ({"type": "string"}, ["", 'a"\\\n€😀'], [1, None]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", 'a"\n'], ["a", "abcd"]),
    ({"type": "string", "maxLength": 0}, [""], ["a"]),
    ({"minLength": 1, "maxLength": None}, ["a"], [""]),
    ({"type": "string", "minLength": None}, [""], []),
    ({"type": "integer"}, [0, -12, 10**15], [1.5, "1"]),
    ({"type": "integer", "minimum": 3, "exclusiveMaximum": 12}, [3, 9, 10, 11], [2, 12, -3, 30]),
    ({"type": "integer", "minimum": 0.0}, [0, 999], [-1]),
    ({"type": "number"}, [1, -2.5, 1e20], ["1"]),
    ({"type": ["integer", "null"], "maximum": -3}, [-3, -40, None], [-2, 3]),
    ({"type": "boolean"}, [True, False], [None, 0]),
    ({"enum": ["a", 'q"\n', 1, None, [1, 2]]}, ["a", 'q"\n', 1, None, [1, 2]], ["b", 2, [1]]),
    ({"type": "string", "enum": ["a", 1]}, ["a"], [1]),
    ({"const": {"a": 1}}, [{"a": 1}], [{}, {"a": 2}]),
    ({"format": "date", "type": "string"}, ["2024-02-28", "1999-12-31"], ["2023-02-30", "x"]),
    (
        {"type": "string", "format": "date-time"},
        ["2024-02-28T23:59:59Z", "2024-04-30T00:00:00.25+01:30"],
        ["2024-04-31T00:00:00Z", "2024-02-28"],
    ),
    (
        {"type": "string", "format": "uuid"},
        ["01234567-89ab-cdef-0123-456789ABCDEF"],
        ["01234567-89ab-cdef-0123-456789ABCDE"],
    ),
    ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, [None, 5], ["a"]),
    ({"allOf": [{"type": "null"}]}, [None], [1]),
    ({"oneOf": [{"type": "string"}, {"const": 1}, {"type": "object"}]}, ["a", 1, {}], [2]),
    # --- arrays
    ({"type": "array"}, [[], [1, "a", []]], [{}]),
    ({"items": {"type": "null"}}, [[], [None], [None, None]], [[1]]),
    ({"type": "array", "maxItems": 0}, [[]], [[1]]),
    ({"type": "array", "maxItems": 1}, [[], [1]], [[1, 2]]),
    ({"items": {"type": "null"}, "minItems": 2, "maxItems": 3}, [[None] * 2, [None] * 3],
     [[None], [None] * 4]),
    (
        {"prefixItems": [{"type": "null"}, {"type": "integer"}], "minItems": 1},
        [[None], [None, 1]],
        [[], [1], [None, 1, 1]],
    ),
    ({"prefixItems": [{"type": "null"}], "minItems": 3}, [[None, 1, "a"]], [[None, 1]]),
    (
        {"prefixItems": [{"type": "null"}], "items": {"type": "integer"}, "maxItems": 3},
        [[], [None], [None, 1], [None, 1, 2]],
        [[1], [None, 1, 2, 3], [None, None]],
    ),
    ({"prefixItems": [True, {"type": "null"}], "items": False}, [[], [1], [1, None]], [[1, 1]]),
    # --- objects
    ({"type": "object"}, [{}, {"a": 1, "b": {"c": []}}], [[]]),
    (POINT, [{"x": 1}, {"x": 1, "y": 2}], [{}, {"y": 2}, {"x": "a"}, {"x": 1, "z": 1}]),
    (
        {"properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}}},
        [{}, {"a": None}, {"b": None}, {"c": None}, {"a": None, "c": None}, {"b": None, "c": None}],
        [{"c": None, "a": None}, {"d": None}],
    ),
    (
        {"properties": {"a": True, "b": True, "c": True}, "required": ["b"]},
        [{"b": 1}, {"a": 1, "b": 1}, {"b": 1, "c": 1}],
        [{}, {"a": 1}, {"a": 1, "c": 1}],
    ),
    ({"type": "object", "additionalProperties": False}, [{}], [{"a": 1}]),
    ({"additionalProperties": {"type": "integer"}}, [{}, {"a": 1, "": 2}], [{"a": "b"}]),
    ({"type": "object", "required": ["a"]}, [{"a": []}, {"a": 1, "b": 2}], [{}, {"b": 1}]),
    (
        {
            "properties": {"ab": {"type": "null"}, "a": {"type": "null"}, 'q"': {"type": "null"}},
            "additionalProperties": {"type": "integer"},
        },
        [{"ab": None, "a": None, 'q"': None, "b": 1}, {"abc": 1}, {"": 1}, {"aa": 1}, {"q": 1}],
        [{"ab": 1}, {"a": 1}, {'q"': 1}, {"b": None}, {"b": "x"}],
    ),
    # --- references
    ({"$ref": "#/$defs/p", "$defs": {"p": POINT}}, [{"x": 1}], [{}]),
    (
        {
            "$defs": {
                "a/b~c d": {"type": "object", "properties": {"n": {"$ref": "#/$defs/a~1b~0c%20d"}}},
            },
            "items": {"$ref": "#/$defs/a~1b~0c%20d"},
        },
        [[], [{}], [{"n": {"n": {}}}]],
        [[{"n": 1}]],
    ),
    ({"anyOf": [{"type": "null"}, {"items": {"$ref": "#"}}]}, [None, [], [None, [[]]]], [1, [1]]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "valid", "invalid"), CASES)
def test_what_a_schema_allows(schema: object, valid: list[object], invalid: list[object]) -> None:
    assert allows(schema, *valid) == [True] * len(valid)
    assert allows(schema, *invalid) == [False] * len(invalid)


@pytest.mark.parametrize("text", ['"\n"', '"\x7f"', '"\\ud800"', '"\\x"', "01", "+1", "1.", "{,}"])
def test_only_json_is_written(text: str) -> None:
    assert not Matcher(schema_grammar({})).allows(text)


def test_names_are_not_spelled_otherwise() -> None:
    schema = {"properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "integer"}}
    matcher = Matcher(schema_grammar(schema))
    assert matcher.allows('{"a": null}')
    assert not matcher.allows('{"\\u0061": 1}')


def test_any_object() -> None:
    matcher = Matcher(object_grammar())
    for text in ("{}", "{ }", '{"a": [1, {"b": null}]}', '{\n  "a": 1\n}'):
        assert matcher.allows(text)
    for text in ("[]", "1", "", '{"a"}', '{"a": 1'):
        assert not matcher.allows(text)


@given(st.integers(-1300, 1300), st.integers(0, 1300), st.integers(-3000, 3000))
@settings(deadline=None)
def test_ranges_of_integers(low: int, width: int, value: int) -> None:
    high = low + width
    matcher = Matcher(f"root ::= {integers(low, high)}")
    for number in (low, high, low - 1, high + 1, value, -value):
        assert matcher.allows(str(number)) == (low <= number <= high), number
    assert not matcher.allows("-0")


@given(st.one_of(st.none(), st.integers(-(10**16) + 1, 10**16 - 1)), st.data())
@settings(deadline=None)
def test_open_ranges_of_integers(low: int | None, data: st.DataObject) -> None:
    matcher = Matcher(f"root ::= {integers(low, None)}")
    value = data.draw(st.integers(-(10**16) + 1, 10**16 - 1))
    assert matcher.allows(str(value)) == (low is None or value >= low)


UNION = {
    "oneOf": [
        {"type": "object", "properties": {"k": {"const": k}}, "required": ["k"]} for k in "ab"
    ]
}


def test_alternatives_told_apart_by_a_required_property() -> None:
    assert allows(UNION, {"k": "a"}, {"k": "b"}, {"k": "c"}) == [True, True, False]


REFUSED: list[tuple[object, str]] = [
    (False, "False"),
    ([], "at #"),
    ({"type": "strin"}, "'strin'"),
    ({"type": []}, "empty"),
    ({"type": 3}, "3"),
    ({"pattern": "a"}, "'pattern'"),
    ({"type": "object", "patternProperties": {}}, "'patternProperties'"),
    ({"not": {}}, "'not'"),
    ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
    ({"type": "number", "minimum": 1}, "'minimum'"),
    ({"type": "integer", "multipleOf": 2}, "'multipleOf'"),
    ({"type": "integer", "minimum": 1.5}, "1.5"),
    ({"type": "integer", "minimum": True}, "True"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "at least 3"),
    ({"type": "integer", "maximum": 10**16}, "16 digits"),
    ({"type": "string", "format": "email"}, "'email'"),
    ({"type": "string", "format": ["date"]}, "format"),
    ({"type": "string", "format": "date", "minLength": 1}, "length"),
    ({"type": "string", "maxLength": 2001}, "2001"),
    ({"type": "string", "minLength": -1}, "-1"),
    ({"minLength": 3, "maxLength": 2}, "above"),
    ({"minLength": 3, "items": {}}, "no type"),
    ({"items": [{}]}, "items"),
    ({"items": False, "minItems": 1}, "at least 1"),
    ({"prefixItems": {}}, "prefixItems"),
    ({"enum": []}, "enum"),
    ({"enum": [1], "type": "string"}, "of its type"),
    ({"enum": [1], "const": 1}, "beside"),
    ({"enum": ["a"], "minLength": 1}, "'minLength' beside 'enum'"),
    ({"const": float("nan")}, "JSON"),
    ({"oneOf": [{"const": float("nan")}, {"type": "null"}]}, "JSON"),
    ({"anyOf": []}, "anyOf"),
    ({"anyOf": [{}], "type": "string"}, "'type' beside 'anyOf'"),
    ({"allOf": [{}, {}]}, "more than one"),
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "anyOf"),
    ({"oneOf": [POINT, POINT]}, "anyOf"),
    ({"oneOf": [{"type": "null"}, {}]}, "anyOf"),
    ({"$ref": "#/$defs/x"}, "does not exist"),
    ({"$ref": "other.json"}, "'other.json'"),
    ({"$ref": 5}, "5"),
    ({"$ref": "#"}, "itself"),
    ({"properties": []}, "properties"),
    ({"properties": {"a": {"x": 1}}}, "#/properties/a has 'x'"),
    ({"required": "a"}, "required"),
    ({"required": ["a"], "properties": {}, "additionalProperties": False}, "'a'"),
    ({"properties": {"\ud800": {}}}, "surrogate"),
]


@pytest.mark.parametrize(("schema", "reason"), REFUSED)
def test_refusals(schema: object, reason: str) -> None:
    with pytest.raises(InputError, match=re.escape(reason)):
        schema_grammar(schema)


def test_depth_is_bounded() -> None:
    schema: object = {}
    for _ in range(2000):
        schema = {"items": schema}
    with pytest.raises(InputError, match="deep"):
        schema_grammar(schema)


@pytest.mark.parametrize("schema", [case[0] for case in CASES] + [UNION])
def test_llama_cpp_takes_the_grammar(schema: object, tiny_model: Model) -> None:
    GrammarSampler(schema_grammar(schema), tiny_model).close()
