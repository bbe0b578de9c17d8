"""User messages: those that ship with the trainer, and those of a file."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Literal

from llamacart_trainer.recipe.conversation import BUILTIN
from llamacart_trainer.recipe.records import PROMPT, read_values
from llamacart_trainer.recipe.validation import file_or

if TYPE_CHECKING:
    from pathlib import Path

Split = Literal["train", "eval"]

_SHIPPED: dict[Split, str] = {"train": "questions.jsonl", "eval": "questions_eval.jsonl"}


def builtin_questions(split: Split = "train") -> tuple[str, ...]:
    """User messages that ship with the trainer, in English: questions, requests, small talk.

    Args:
        split: `train` for 200 to fit on, `eval` for 80 others to measure on.
    """
    with as_file(files("llamacart_trainer").joinpath(_SHIPPED[split])) as path:
        return read_questions(path)


def read_questions(path: Path) -> tuple[str, ...]:
    """Read a file of `{"prompt"}` objects, each a user's message.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used, or there is none.
    """
    return read_values(path, PROMPT, "questions")


def questions_named(name: str, folder: Path) -> tuple[str, ...]:
    """The user messages that a recipe names: those of a file in its folder, or `builtin`.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used, or there is none.
    """
    if name == BUILTIN:
        return builtin_questions()
    with file_or(name, BUILTIN):
        return read_questions(folder / name)
