"""Writes a `recipe.toml` with a comment for each key that wants one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Value = str | float | bool | list[str] | list[float]

WIDTH = 100


@dataclass(frozen=True)
class Line:
    """A key of a recipe.

    Attributes:
        key: Its name; empty for an empty line.
        value: Its value.
        comment: What to say of it, in words of a person; stands above it.
        off: Written as a comment itself, so that a person may switch it on.
    """

    key: str
    value: Value = ""
    comment: str = ""
    off: bool = False


GAP = Line("")


def recipe_text(
    title: str,
    lines: Iterable[Line],
    evaluation: Sequence[Line] = (),
    *,
    draft: Sequence[Line] = (),
) -> str:
    """The text of a `recipe.toml`.

    Args:
        title: First comment.
        lines: Keys above all tables.
        evaluation: Keys of the table `[evaluation]`.
        draft: Keys of the table `[draft]`.
    """
    text = [*_comment(title), *(part for line in lines for part in _written(line))]
    for name, table in (("draft", draft), ("evaluation", evaluation)):
        if table:
            text += ["", f"[{name}]", *(part for line in table for part in _written(line))]
    return "\n".join(text) + "\n"


def toml_value(value: Value) -> str:
    """A value as TOML writes it.

    JSON's text, number and list are TOML's too, but for one character that TOML wants escaped.
    """
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _written(line: Line) -> list[str]:
    if not line.key:
        return [""]
    set_to = f"{line.key} = {toml_value(line.value)}"
    return [*_comment(line.comment), f"# {set_to}" if line.off else set_to]


def _comment(text: str) -> list[str]:
    """Lines of a comment, none longer than `WIDTH`."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(f"# {word}")
    return lines
