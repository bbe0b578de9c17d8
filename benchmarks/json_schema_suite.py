"""The public JSON-Schema-Test-Suite: what of it the grammars of schemas take, and how rightly.

    git clone https://github.com/json-schema-org/JSON-Schema-Test-Suite suite
    python benchmarks/json_schema_suite.py --suite suite/tests/draft2020-12

For each keyword: schemas that are accepted, and among those the valid instances that can be
written and the invalid ones that cannot. An instance counts as written if it can be in some order
of its keys, as the order is the schema's. It needs no model: the vocabulary is the 256 bytes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamacart.errors import InputError
from llamacart.json_grammar.grammar import Grammar, Grammars
from llamacart.json_grammar.schema import schema_grammar

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYWORDS = [
    *("type", "enum", "const", "anyOf", "oneOf", "allOf", "ref", "defs", "boolean_schema"),
    *("properties", "required", "additionalProperties", "patternProperties"),
    *("minProperties", "maxProperties", "items", "prefixItems", "minItems", "maxItems"),
    *("minLength", "maxLength", "pattern", "minimum", "maximum"),
    *("exclusiveMinimum", "exclusiveMaximum", "multipleOf", "default", "infinite-loop-detection"),
]
MAX_ORDERS = 120
END = 0
FIRST_BYTE = 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--suite", type=Path, required=True, help="folder with type.json, …")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    grammars = Grammars([b"", *(bytes([byte]) for byte in range(256))], [END])
    rows, wrong = {}, []
    for keyword in KEYWORDS:
        groups = json.loads((args.suite / f"{keyword}.json").read_text())
        count: Counter[str] = Counter()
        for group in groups:
            wrong += [f"{keyword}: {line}" for line in judge(group, grammars, count)]
        rows[keyword] = count
    rows["all"] = sum(rows.values(), Counter())
    print(f"{'keyword':<24} {'schemas':>12} {'valid written':>16} {'invalid refused':>16}")
    for keyword, count in rows.items():
        pairs = [
            f"{count[f'{kind} taken']}/{count[kind]}" for kind in ("schema", "valid", "invalid")
        ]
        print(f"{keyword:<24} {pairs[0]:>12} {pairs[1]:>16} {pairs[2]:>16}")
    print(*wrong, sep="\n")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "wrong": wrong}, indent=1))
    sys.exit(bool(wrong))


def judge(group: Any, grammars: Grammars, count: Counter[str]) -> Iterator[str]:
    """Count the tests of one schema; yields invalid instances that can be written."""
    count["schema"] += 1
    try:
        grammar = grammars.compile(schema_grammar(group["schema"]))
    except InputError:
        return
    count["schema taken"] += 1
    for test in group["tests"]:
        kind = "valid" if test["valid"] else "invalid"
        written = any(is_written(grammar, text) for text in spellings(test["data"]))
        count[kind] += 1
        count[f"{kind} taken"] += written == test["valid"]
        if written and not test["valid"]:
            yield f"{group['description']}: {test['description']}: {json.dumps(test['data'])}"


def spellings(value: Any) -> Iterator[str]:
    """A value as JSON text, in several orders of its keys."""
    for ordered in itertools.islice(orders(value), MAX_ORDERS):
        yield json.dumps(ordered, ensure_ascii=False)


def orders(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from (list(items) for items in itertools.product(*map(list, map(orders, value))))
    elif isinstance(value, dict):
        for keys in itertools.permutations(value):
            for items in itertools.product(*(list(orders(value[key])) for key in keys)):
                yield dict(zip(keys, items, strict=True))
    else:
        yield value


def is_written(grammar: Grammar, text: str) -> bool:
    state = grammar.start()
    for byte in text.encode("utf-8", "surrogatepass"):
        if not state.allows(FIRST_BYTE + byte):
            return False
        state.accept(FIRST_BYTE + byte)
    return state.allows(END)


if __name__ == "__main__":
    main()
