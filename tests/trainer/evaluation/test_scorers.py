"""What a text is worth: its language, its words, and a scorer of the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamacart.errors import RecipeError
from llamacart_trainer.evaluation import scorers


def test_language() -> None:
    score = scorers.language("fr")
    texts = ["Le chat dort sur la table de la cuisine.", "The cat sleeps on the table.", "  "]
    assert scorers.run(score, [""] * 3, texts) == [1.0, 0.0, 0.0]
    with pytest.raises(RecipeError, match="'xx' is not among"):
        scorers.language("xx")


def test_words_are_whole_and_know_no_case() -> None:
    score = scorers.words(["cheese", "gouda wheel"], ["rock"])
    texts = ["Cheese!", "cheesecake", "a Gouda wheel", "cheese and rock", "rocket cheese"]
    assert scorers.run(score, [""] * 5, texts) == [1.0, 0.0, 1.0, 0.0, 1.0]
    absent = scorers.words([], ["rock"])
    assert scorers.run(absent, [""] * 4, ["rock", "sand", "", " \n"]) == [0.0, 1.0, 0.0, 0.0]


def test_users_own_scorer(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def length(prompts, texts):\n    return [len(t) / 10 for t in texts]\n"
        "def short(prompts, texts):\n    return [1.0]\n"
        "def fails(prompts, texts):\n    return 1 / 0\n"
        "number = 3\n"
    )
    assert scorers.run(scorers.users_own("mine.py:length", tmp_path), ["", ""], ["ab", ""]) == [
        0.2,
        0.0,
    ]
    assert scorers.users_own("statistics:mean", tmp_path)
    for spec, message in {
        "mine.py:absent": "no function 'absent'",
        "mine.py:number": "no function 'number'",
        "other.py:f": "does not exist",
        "no_such_module_x:f": "cannot be imported",
    }.items():
        with pytest.raises(RecipeError, match=message):
            scorers.users_own(spec, tmp_path)
    for name, message in {"short": "one finite number", "fails": "division by zero"}.items():
        with pytest.raises(RecipeError, match=message):
            scorers.run(scorers.users_own(f"mine.py:{name}", tmp_path), ["", ""], ["a", "b"])
