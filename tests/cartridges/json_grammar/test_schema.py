"""Texts of a schema's grammar are valid under the schema, and what cannot be kept is refused."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLParserLimits

import llamacart.json_grammar.grammar as grammar_module
from llamacart.errors import InputError, SchemaTooComplexError
from llamacart.json_grammar.grammar import Grammar, Grammars, grammar_text
from llamacart.json_grammar.schema import object_grammar, schema_grammar, schema_part

FIRST_BYTE, END = 3, 2
PIECES = [b""] * FIRST_BYTE + [bytes([byte]) for byte in range(256)]
GRAMMARS = Grammars(PIECES, [END])


def writes(grammar: str | Grammar, text: str) -> bool:
    """Whether a generation may write `text`, byte by byte, and end."""
    compiled = GRAMMARS.compile(grammar) if isinstance(grammar, str) else grammar
    state = compiled.start()
    for byte in text.encode():
        if not state.allows(FIRST_BYTE + byte):
            return False
        state.accept(FIRST_BYTE + byte)
    return state.allows(END)


def allows(schema: object, *values: object) -> list[bool]:
    grammar = schema_grammar(schema)
    return [writes(grammar, json.dumps(value, ensure_ascii=False)) for value in values]


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


@pytest.mark.parametrize(
    "text", ['"\n"', '"\x7f"', '"\\ud800"', '"\\x"', "01", "+1", "1.", "{,}", '"a', "", "[1 ]]"]
)
def test_only_json_is_written(text: str) -> None:
    assert not writes(schema_grammar({}), text)


def test_names_are_not_spelled_otherwise() -> None:
    schema = {"properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "integer"}}
    grammar = schema_grammar(schema)
    assert writes(grammar, '{"a": null}')
    assert not writes(grammar, '{"\\u0061": 1}')
    patterns = {"patternProperties": {"^a": {"type": "null"}}}
    grammar = schema_grammar({**patterns, "additionalProperties": {"type": "integer"}})
    assert writes(grammar, '{"ab": null, "b": 1}')
    assert not writes(grammar, '{"\\u0061b": 1}')


def test_any_object() -> None:
    for text in ("{}", "{ }", '{"a": [1, {"b": null}]}', '{\n  "a": 1\n}'):
        assert writes(object_grammar(), text)
    for text in ("[]", "1", "", '{"a"}', '{"a": 1', " {}", "{}  ", "{   }"):
        assert not writes(object_grammar(), text)


def test_control_characters_are_escaped() -> None:
    assert allows({"enum": ["\x01", "\n"]}, "\x01", "\n", "\x02") == [True, True, False]


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
    ({"pattern": "(?=a)"}, "look-around"),
    ({"pattern": "a" * 5000}, "5000"),
    ({"pattern": ["a"]}, "pattern"),
    ({"patternProperties": {"[": {}}}, "patternProperties"),
    ({"not": {}}, "'not'"),
    ({"x-guidance": {"lenient": True}}, "'x-guidance'"),
    ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
    ({"type": "integer", "multipleOf": 10_001}, "10001"),
    ({"type": "integer", "multipleOf": 0}, "multipleOf 0"),
    ({"type": "number", "multipleOf": 1e-300}, "1e-300"),
    ({"type": "integer", "minimum": True}, "True"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "at # cannot be kept"),
    ({"type": "integer", "maximum": 10**16}, "16 digits"),
    ({"type": "string", "format": "iri"}, "'iri'"),
    ({"type": "string", "format": ["date"]}, "format"),
    ({"type": "string", "format": "date", "minLength": 11}, "at # cannot be kept"),
    ({"type": "string", "maxLength": 100_001}, "100001"),
    ({"type": "array", "maxItems": 10**9}, "1000000000"),
    ({"type": "object", "minProperties": 2}, "minProperties 2"),
    ({"type": "string", "minLength": -1}, "-1"),
    ({"minLength": 3, "maxLength": 2}, "at # cannot be kept"),
    ({"items": False, "minItems": 1}, "at # cannot be kept"),
    ({"prefixItems": {}}, "prefixItems"),
    ({"enum": []}, "enum"),
    ({"enum": [1], "type": "string"}, "at # cannot be kept"),
    ({"enum": [2**53 + 2]}, "16 digits"),
    ({"const": float("nan")}, "JSON"),
    ({"oneOf": [{"const": float("nan")}, {"type": "null"}]}, "JSON"),
    ({"anyOf": []}, "anyOf"),
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "at # cannot be kept: oneOf"),
    ({"items": {"oneOf": [POINT, POINT]}}, "at #/items cannot be kept: oneOf"),
    ({"$ref": "#/$defs/x"}, "does not exist"),
    ({"$ref": "other.json"}, "'other.json'"),
    ({"$ref": 5}, "5"),
    ({"$ref": "#"}, "itself"),
    (
        {"$defs": {"x": {"properties": {"x": {"$ref": "#/$defs/x"}}, "required": ["x"]}},
         "anyOf": [{"type": "null"}, {"$ref": "#/$defs/x"}]},
        "#/$defs/x leads only to itself",
    ),
    ({"properties": []}, "properties"),
    ({"properties": {"a": {"x": 1}}}, "#/properties/a has 'x'"),
    ({"properties": {"a": {"allOf": [{"type": "null"}, {"type": "string"}]}}, "required": ["a"]},
     "#/properties/a cannot be kept"),
    ({"properties": {str(i): {} for i in range(1001)}}, "1001 properties"),
    ({"required": "a"}, "required"),
    ({"type": "object", "required": ["a"], "additionalProperties": False}, "at # cannot be kept"),
    ({"properties": {"\ud800": {}}}, "surrogate"),
    ({"enum": ["x" * 2**20]}, "bytes"),
    ({"allOf": [{"type": "string", "pattern": f"{c}.*"} for c in "abcdefghijklmnopqrst"]},
     "at #/allOf/12 is one of more than 12"),
    ({"items": {"$id": "x", "items": {"$ref": "#"}}}, "'$id'"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "reason"), REFUSED, ids=lambda value: repr(value)[:60])
def test_refusals(schema: object, reason: str) -> None:
    with pytest.raises(InputError, match=re.escape(reason)) as caught:
        schema_grammar(schema)
    assert "the schema at #" in caught.value.message


@pytest.mark.parametrize("depth", [70, 2000, 100_000])
def test_depth_is_bounded(depth: int) -> None:
    schema: object = {}
    for _ in range(depth):
        schema = {"items": schema}
    with pytest.raises(InputError, match="deep"):
        schema_grammar(schema)


# --- relaxed -------------------------------------------------------------------------------------

LOOSE: list[tuple[dict[str, Any], list[object], list[object], int]] = [
    ({"type": "string", "pattern": "^[a-z]+$"}, ["ab"], ["AB", 1], 0),
    ({"type": "string", "pattern": "(?=a)b"}, ["AB"], [1], 1),
    ({"type": "string", "format": "uri"}, ["https://a.b/c"], ["a b", 1], 0),
    ({"type": "string", "format": "iri"}, ["a b"], [1], 1),
    ({"type": "number", "minimum": 0.5}, [0.5, 2], [0.4], 0),
    ({"type": "integer", "multipleOf": 7}, [14, -7], [15], 0),
    ({"type": "integer", "multipleOf": 99_991}, [5], ["a"], 1),
    ({"type": "array", "uniqueItems": True}, [[1, 1]], [1], 1),
    ({"type": "string", "nullable": True}, ["a", None], [1], 1),
    ({"type": "string", "x-order": 3}, ["a"], [1], 1),
    ({"type": "string", "maxLength": 10**9}, ["a"], [1], 1),
    ({"type": "string", "maxLength": 10_000}, ["a"], ["a" * 10_001], 0),
    ({"not": {"type": "string"}}, ["a", 1], [], 1),
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, [1, 1.5], ["a"], 1),
    ({"$ref": "https://example.com/a.json"}, ["a", 1], [], 1),
    ({"items": [{"type": "null"}], "additionalItems": False}, [[None], []], [[None, 1], [1]], 0),
    ({"type": "object", "properties": {"a": {"allOf": [{"type": "null"}, {"type": "string"}]}},
      "required": ["a"]}, [{"a": 1}, {"a": "x"}], [{}, 1], 1),
    ({"type": "object", "properties": {"a": {"not": {}, "type": "null"}, "b": {"type": "null"}}},
     [{"a": None, "b": None}], [{"b": 1}, {"c": 1}], 1),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "written", "refused", "n_notes"), LOOSE)
def test_what_cannot_be_kept_is_left_out_where_that_is_asked_for(
    schema: dict[str, Any], written: list[object], refused: list[object], n_notes: int
) -> None:
    part, notes = schema_part(schema, relaxed=True)
    grammar = grammar_text("start: @value", {"value": part})
    assert [writes(grammar, json.dumps(value)) for value in written] == [True] * len(written)
    assert [writes(grammar, json.dumps(value)) for value in refused] == [False] * len(refused)
    assert len(notes) == n_notes
    assert all("#" in note for note in notes)
    if notes:
        with pytest.raises(InputError):
            schema_part(schema)


def test_nonsense_is_refused_even_so() -> None:
    for schema in ({"type": "strin"}, {"properties": []}, {"$ref": "#/nowhere"}):
        with pytest.raises(InputError):
            schema_part(schema, relaxed=True)


# --- work ----------------------------------------------------------------------------------------


def alternatives(depth: int) -> dict[str, Any]:
    """Both alternatives of a level begin alike, so that ways to read a text double with each."""

    def level(properties: dict[str, Any]) -> dict[str, Any]:
        return {"type": "object", "properties": properties, "required": ["a"]}

    levels = {"s0": level({"a": {"type": "integer"}})}
    for k in range(1, depth + 1):
        below = {"a": {"$ref": f"#/$defs/s{k - 1}"}}
        levels[f"s{k}"] = {"anyOf": [level(below), level({**below, "b": {"type": "integer"}})]}
    return {"$ref": f"#/$defs/s{depth}", "$defs": levels}


def test_alternatives_that_begin_alike_take_no_longer_with_depth() -> None:
    grammar = schema_grammar(alternatives(20))
    assert writes(grammar, '{"a": ' * 20 + '{"a": 1}' + ', "b": 2}' * 20)
    assert writes(grammar, '{"a": ' * 20 + '{"a": 1}' + "}" * 20)
    assert not writes(grammar, '{"a": ' * 20 + '{"a": 1}' + ', "c": 2}' * 20)
    with pytest.raises(InputError, match="deep"):
        schema_grammar(alternatives(100))


def test_twenty_thousand_words() -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(3, 12))) for _ in range(20_000)]
    grammar = schema_grammar({"enum": words})
    assert writes(grammar, json.dumps(words[-1]))
    assert not writes(grammar, json.dumps(f"{words[-1]}z"))


def test_a_thousand_properties_and_alternatives() -> None:
    names = [f"p{i}" for i in range(1000)]
    schema = {"properties": {name: {"type": "integer"} for name in names}, "required": names[-1:]}
    assert allows(schema, {"p0": 1, "p999": 2}, {"p0": 1}) == [True, False]
    kinds = [
        {"type": "object", "properties": {"k": {"const": n}}, "required": ["k"]} for n in names
    ]
    assert allows({"oneOf": kinds}, {"k": "p999"}, {"k": "q"}) == [True, False]
    assert allows({"type": "array", "maxItems": 100_000}, [1, 2]) == [True]


def test_a_generation_that_takes_too_much_work_ends_with_its_own_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        grammar_module, "LIMITS", LLParserLimits(step_lexer_fuel=3000, verbose_errors=False)
    )
    grammars = Grammars(PIECES, [END])
    text = schema_grammar({"type": "string", "pattern": "(.*[a-m].{12}[n-z].{12}){9}"})
    grammar = grammars.compile(text)
    with pytest.raises(SchemaTooComplexError, match="too complex") as caught:
        write_noise(grammar, 2000)
    assert (caught.value.status, caught.value.code) == (400, "schema_too_complex")
    # Generations share the states of a lexer, so that the next one has to have it anew.
    again = grammars.compile(text)
    assert again == grammar
    write_noise(again, 5)


def write_noise(grammar: Grammar, n: int) -> None:
    rng, state = random.Random(0), grammar.start()
    bits = np.zeros(state.n_words, np.uint32)
    state.accept(FIRST_BYTE + ord('"'))
    for _ in range(n):
        state.fill(bits)
        state.accept(FIRST_BYTE + rng.choice(b"abmnz"))


# --- any schema ----------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "ab", 'q"', "é"])
NUMBERS = st.one_of(st.integers(-50, 50), st.sampled_from([0.5, -1.25, 3.0, 0.001]))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(["", "a", 'x"\n', "€😀"]))
COUNTS = st.integers(0, 4)
PLAIN = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", ["string", "null"]])},
        optional={
            "minLength": COUNTS,
            "maxLength": COUNTS,
            "pattern": st.sampled_from(["^a*b$", "[0-9]", "^(x|yy)+$"]),
        },
    ),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number", ["integer", "boolean"]])},
        optional={
            "minimum": NUMBERS,
            "maximum": NUMBERS,
            "exclusiveMinimum": NUMBERS,
            "multipleOf": st.sampled_from([1, 2, 7, 0.5]),
        },
    ),
    st.fixed_dictionaries({"enum": st.lists(SCALARS, min_size=1, max_size=4)}),
    st.fixed_dictionaries({"const": SCALARS}),
    st.fixed_dictionaries({"format": st.sampled_from(["date", "uuid"]), "type": st.just("string")}),
)


def larger(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(schemas, min_size=1, max_size=3)
    members = st.dictionaries(NAMES, schemas, max_size=3)
    objects = {
        "properties": members,
        "required": st.lists(NAMES, max_size=2),
        "additionalProperties": st.one_of(st.booleans(), schemas),
        "patternProperties": st.dictionaries(st.sampled_from(["^a", "b$"]), schemas, max_size=1),
        "minProperties": COUNTS,
        "maxProperties": COUNTS,
    }
    arrays = {"items": schemas, "prefixItems": lists, "minItems": COUNTS, "maxItems": COUNTS}
    combined = {"anyOf": lists, "oneOf": lists, "allOf": lists, **objects}
    return st.one_of(
        st.fixed_dictionaries({"type": st.just("object")}, optional=objects),
        st.fixed_dictionaries({"type": st.just("array")}, optional=arrays),
        st.fixed_dictionaries({}, optional=combined),
        # Not by itself: the reference would lead a validator round in a circle.
        st.just({"type": "array", "items": {"$ref": "#"}}),
        st.just({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
        st.just({"not": {}}),
    )


@settings(max_examples=150, deadline=None)
@given(st.recursive(PLAIN, larger, max_leaves=6), st.integers(0, 2**32 - 1))
def test_a_text_chosen_at_random_is_valid_under_its_schema(schema: Any, seed: int) -> None:
    grammar, reason = compiled_or_refused(schema)
    if grammar is None:
        assert "the schema at #" in reason
        assert "llguidance failed" not in reason
        return
    text = random_text(grammar, random.Random(seed))
    if text is not None:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))


def compiled_or_refused(schema: object) -> tuple[Grammar | None, str]:
    try:
        return GRAMMARS.compile(schema_grammar(schema)), ""
    except InputError as error:
        return None, error.message


def random_text(grammar: Grammar, rng: random.Random) -> str | None:
    """A text of bytes drawn evenly from those allowed, drawn to an end; None if it finds none."""
    state, bits, out = grammar.start(), np.zeros(grammar.n_words, np.uint32), bytearray()
    for _ in range(400):
        state.fill(bits)
        allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))
        assert len(allowed), f"a dead end behind {bytes(out)!r}"
        if END in allowed and (len(allowed) == 1 or rng.random() < 0.3):
            return out.decode()
        wanted = [FIRST_BYTE + byte for byte in b'"}],' if FIRST_BYTE + byte in allowed]
        others = [int(token) for token in allowed if token != END]
        token = rng.choice(wanted if wanted and rng.random() < 0.4 else others)
        state.accept(token)
        out.append(token - FIRST_BYTE)
    return None
