"""The script that judges grammars by the public suite of schemas, on a suite of two."""

from __future__ import annotations

from collections import Counter

import json_schema_suite as suite

from llamacart.json_grammar.grammar import Grammars

GRAMMARS = Grammars([b"", *(bytes([byte]) for byte in range(256))], [suite.END])


def group(schema: object, *tests: tuple[object, bool]) -> dict[str, object]:
    return {
        "description": "some",
        "schema": schema,
        "tests": [{"description": "one", "data": d, "valid": v} for d, v in tests],
    }


def test_counts_and_what_is_wrong() -> None:
    count: Counter[str] = Counter()
    schema = {"properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]}
    tests = [({"b": [], "a": 1}, True), ({"a": 1, "c": 1}, True), ({"b": 1}, False)]
    assert list(suite.judge(group(schema, *tests), GRAMMARS, count)) == []
    # An instance that the suite calls invalid and that can be written is told.
    (line,) = suite.judge(group({"type": "null"}, (None, False)), GRAMMARS, count)
    assert line == "some: one: null"
    assert list(suite.judge(group({"not": {}}, (None, False)), GRAMMARS, count)) == []
    assert count == {
        "schema": 3,
        "schema taken": 2,
        "valid": 2,
        "valid taken": 1,
        "invalid": 2,
        "invalid taken": 1,
    }


def test_orders_of_keys_within_each_other() -> None:
    texts = set(suite.spellings([{"a": 1, "b": {"c": 2, "d": 3}}]))
    assert len(texts) == 4
    assert '[{"b": {"d": 3, "c": 2}, "a": 1}]' in texts
    assert len(list(suite.spellings({str(i): i for i in range(9)}))) == suite.MAX_ORDERS
