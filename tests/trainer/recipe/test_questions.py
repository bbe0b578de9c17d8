from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from llamacart.errors import NotFoundError, RecipeError
from llamacart_trainer.recipe.questions import builtin_questions, read_questions


def test_shipped_questions_are_different_and_those_to_measure_on_are_others() -> None:
    train, measured = builtin_questions(), builtin_questions("eval")
    assert (len(train), len(measured)) == (200, 80)
    assert len({text.casefold() for text in (*train, *measured)}) == 280


def test_shipped_questions_vary_in_form_and_length() -> None:
    for texts in (builtin_questions(), builtin_questions("eval")):
        openings = Counter(text.split()[0] for text in texts)
        assert max(openings.values()) < len(texts) / 3
        assert sum(not text.endswith("?") for text in texts) > len(texts) / 5
        lengths = [len(text.split()) for text in texts]
        assert min(lengths) <= 4
        assert max(lengths) >= 25


def test_reads_a_file_of_questions(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "Why?"}\n\n{"prompt": "How so?"}\n')
    assert read_questions(path) == ("Why?", "How so?")
    path.write_text("\n")
    with pytest.raises(RecipeError, match=r"own.jsonl: no questions"):
        read_questions(path)
    path.write_text('{"question": "Why?"}\n')
    with pytest.raises(RecipeError, match=r"own.jsonl:1: found the key 'question'"):
        read_questions(path)
    with pytest.raises(NotFoundError):
        read_questions(tmp_path / "absent.jsonl")
