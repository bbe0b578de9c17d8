"""The folder of a recipe whose pairs the model is to write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacart.errors import InputError
from llamacart_trainer.drafting.kept import count_kept
from llamacart_trainer.drafting.writing import AS_WANTED
from llamacart_trainer.recipe.questions import read_questions
from llamacart_trainer.starters.folder import new_folder, records_text
from llamacart_trainer.starters.kinds import draft_recipe
from llamacart_trainer.starters.toml import Line

if TYPE_CHECKING:
    from pathlib import Path

    from llamacart_trainer.recipe.recipe import Recipe
    from llamacart_trainer.starters.kinds import Form


@dataclass(frozen=True)
class NewDraft:
    """What a person says of a new folder.

    Attributes:
        as_wanted: Prompt behind which answers are as wanted.
        as_is: Prompt behind which they are as they are.
        language: Code of the language that is wanted.
        words: Words of which one is wanted.
        forbidden: Words that are not.
        questions: File of messages.
    """

    as_wanted: str = ""
    as_is: str = ""
    language: str | None = None
    words: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    questions: Path | None = None


def write_draft_folder(path: Path, draft: NewDraft, name: str, model: str, form: Form) -> None:
    """Make the folder, with all but the pairs.

    Args:
        path: Where; nothing may be there.
        draft: What is to be written.
        name: Of the cartridge.
        model: The model that the recipe names.
        form: Form of the pairs.

    Raises:
        InputError: There is something already, or it cannot be made.
        RecipeError: The file of messages cannot be used.
    """
    messages = None if draft.questions is None else read_questions(draft.questions)
    lines = [Line("as_wanted", draft.as_wanted, "A system text, or a file beside this one.")]
    if draft.as_is:
        lines.append(Line("as_is", draft.as_is))
    if messages is not None:
        lines.append(Line("questions", "questions.jsonl"))
    behaviour = [
        Line(key, value)
        for key, value in (
            ("language", draft.language or ""),
            ("target_words", list(draft.words)),
            ("forbidden_words", list(draft.forbidden)),
        )
        if value
    ]
    with new_folder(path) as folder:
        text = draft_recipe(name, model, form, lines, behaviour)
        (folder / "recipe.toml").write_text(text, encoding="utf-8")
        if messages is not None:
            text = records_text({"prompt": message} for message in messages)
            (folder / "questions.jsonl").write_text(text, encoding="utf-8")


def check_unwritten(recipe: Recipe, folder: Path) -> None:
    """Refuse a folder whose pairs are not from an earlier draft.

    Raises:
        InputError: There are such pairs.
    """
    pairs = folder / recipe.train
    if pairs.exists() and not count_kept(folder / AS_WANTED):
        raise InputError(
            f"{str(pairs)!r} would be replaced, and is no draft; move it away, or give --replace"
        )
