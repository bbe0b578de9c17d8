from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from llamacart.errors import NotFoundError, RecipeError
from llamacart_trainer.recipe.names import (
    NAME_KINDS,
    Name,
    builtin_names,
    builtin_phrasings,
    read_names,
)


def test_both_halves_hold_as_many_of_each_kind_and_no_name_is_in_both() -> None:
    train, measured = builtin_names(), builtin_names("eval")
    for half in (train, measured):
        assert Counter(name.kind for name in half) == dict.fromkeys(NAME_KINDS, 20)
    assert len({name.text.casefold() for name in (*train, *measured)}) == 200
    assert builtin_names("eval") == measured


def test_phrasings_have_one_slot_and_do_not_repeat() -> None:
    texts = [form.text for form in builtin_phrasings()]
    assert len(texts) > 100
    assert len(set(texts)) == len(texts)
    assert {form.kind for form in builtin_phrasings()} == set(NAME_KINDS)
    assert all(text.count("{}") == 1 and text == text.strip() for text in texts)


def test_reads_a_file_of_names(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"name": "Ada", "kind": "person"}\n\n{"name": "Riga", "kind": "place"}\n')
    assert read_names(path) == (Name("Ada", "person"), Name("Riga", "place"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "own.jsonl: no names"),
        ('{"name": "Ada"}', r"own.jsonl:1: found the key 'name'"),
        ('{"name": "Ada", "kind": "planet"}', r"own.jsonl:1: 'kind' has value 'planet'; one of"),
        ('{"name": " ", "kind": "place"}', r"own.jsonl:1: 'name' has value ' '; a text is needed"),
        (
            '{"name": "Ada", "kind": "place"}\n{"name": "Ada", "kind": "person"}',
            r"own.jsonl:2: 'name' has value 'Ada', which stands above too",
        ),
    ],
)
def test_refuses(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(line)
    with pytest.raises(RecipeError, match=message):
        read_names(path)


def test_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_names(tmp_path / "absent.jsonl")
