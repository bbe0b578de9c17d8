from __future__ import annotations

import tomllib

import pytest

from llamacart_trainer.starters.toml import GAP, Line, recipe_text, toml_value


@pytest.mark.parametrize(
    "value",
    [
        "",
        'say "hi"',
        "a\\b",
        "one\ntwo\t\x7f\x01",
        "α 日本 🙂",
        True,
        0.7,
        3,
        ["a", 'b"'],
        [0.5, 1.0],
    ],
)
def test_a_value_is_read_as_it_was_written(value: object) -> None:
    assert tomllib.loads(f"x = {toml_value(value)}") == {"x": value}  # type: ignore[arg-type]


def test_comments_stand_above_their_keys_and_are_broken_at_words() -> None:
    text = recipe_text(
        "A title.",
        [
            Line("name", "x"),
            GAP,
            Line("penalty", 3.0, "word " * 40),
            Line("rank", 2, "Or", off=True),
        ],
        [Line("language", "it")],
    )
    assert tomllib.loads(text) == {
        "name": "x",
        "penalty": 3.0,
        "evaluation": {"language": "it"},
    }
    lines = text.splitlines()
    assert lines[:3] == ["# A title.", 'name = "x"', ""]
    assert max(map(len, lines)) <= 102
    assert "# Or\n# rank = 2\n" in text
    assert text.endswith('\n[evaluation]\nlanguage = "it"\n')
