"""What a person wants to have without a prompt, and the recipe folder that says so."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from llamacart.disk.whole import write_whole
from llamacart.errors import InputError
from llamacart_trainer.recipe.lines import read_file
from llamacart_trainer.recipe.questions import builtin_questions
from llamacart_trainer.starters.folder import new_folder, records_text
from llamacart_trainer.starters.kinds import prompt_recipe
from llamacart_trainer.starters.toml import Line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from llamacart_trainer.recipe.turns import Turn
    from llamacart_trainer.starters.kinds import Form

RECIPE = "recipe.toml"
ANSWERS = "answers.jsonl"

QUESTIONS = 60
"""Shipped messages that are answered: more bring little, and each takes its time."""
VALIDATION = 20
"""Shipped messages that α is chosen by; the others serve the test."""
LEAST_QUESTIONS = 10
HELD_OUT = 5
"""One in so many of a person's own messages is kept from training."""

LATER = ("answers", "default_alpha")
"""Keys of the recipe that a run sets when it knows them."""

INLINE = 300
"""A longer prompt stands in a file of its own, and so does one of several lines."""


class Given(NamedTuple):
    """A person's own user messages.

    Attributes:
        messages: They.
        where: Where they come from, for errors.
    """

    messages: Sequence[str]
    where: str


@dataclass(frozen=True)
class Questions:
    """User messages, none in two parts.

    Attributes:
        train: What the model answers behind the prompt.
        validation: What α is chosen by.
        test: What the cartridge is measured on.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @classmethod
    def shipped(cls) -> Questions:
        """Those that ship with the trainer."""
        measured = builtin_questions("eval")
        return cls(builtin_questions()[:QUESTIONS], measured[:VALIDATION], measured[VALIDATION:])

    @classmethod
    def own(cls, given: Given) -> Questions:
        """A person's own, of which every fifth is held out.

        Raises:
            InputError: There are too few of them.
        """
        each = tuple(dict.fromkeys(given.messages))
        if len(each) < LEAST_QUESTIONS:
            raise InputError(
                f"{given.where} has {len(each)} different messages; {LEAST_QUESTIONS} at least are "
                "needed to train and to measure on"
            )
        held = each[HELD_OUT - 1 :: HELD_OUT]
        return cls(tuple(m for m in each if m not in held), held[::2], held[1::2] or held)


@dataclass(frozen=True)
class Wish:
    """A prompt whose effect is wanted without it.

    Attributes:
        name: Of the cartridge.
        model: As a recipe names it.
        form: Whether the model has a chat form.
        system: A system text; None without.
        examples: Turns behind it.
        questions: What it is tried on.
        alpha: α of a request that names none, where the person has chosen it.
        when: What the cartridge waits for; empty where it acts always.
    """

    name: str
    model: str
    form: Form
    system: str | None
    examples: tuple[Turn, ...]
    questions: Questions
    alpha: float | None = None
    when: tuple[str, ...] = ()

    def files(self, *, alpha: float | None = None, answered: bool = False) -> dict[str, str]:
        """Text of each file of the recipe's folder, without the answers.

        Args:
            alpha: α that has been chosen since.
            answered: Name the file of answers.
        """
        parts = {
            "questions.jsonl": self.questions.train,
            "validation.jsonl": self.questions.validation,
            "prompts.jsonl": self.questions.test,
        }
        files = {
            name: records_text({"prompt": message} for message in messages)
            for name, messages in parts.items()
        }
        sources = []
        if self.system is not None:
            if len(self.system) > INLINE or "\n" in self.system:
                files["prompt.txt"] = self.system + "\n"
                sources.append(Line("prompt_file", "prompt.txt", "The prompt: a system text."))
            else:
                sources.append(Line("prompt", self.system, "The prompt: a system text."))
        if self.examples:
            files["examples.jsonl"] = records_text(turn.as_dict for turn in self.examples)
            sources.append(Line("examples", "examples.jsonl", "Turns that stand before a message."))
        sources.append(Line("questions", "questions.jsonl", "What the model answers behind it."))
        if answered:
            sources.append(Line("answers", ANSWERS, "Its answers; without them it gives new ones."))
        sources.append(Line("prompts", "prompts.jsonl", "What the cartridge is measured on."))
        chosen = self.alpha if self.alpha is not None else alpha
        files[RECIPE] = prompt_recipe(
            self.name,
            self.model,
            self.form,
            sources,
            description=self._description,
            title="A prompt without the prompt, written by `llamacart distill`.",
            evaluation=[Line("validation", "validation.jsonl", "What α is chosen by.")],
            default_alpha=1.0 if chosen is None else chosen,
            when=self.when,
        )
        return files

    @property
    def _description(self) -> str:
        said = "Does what a few example turns do." if self.system is None else self.system
        first = " ".join(said.split())
        return first if len(first) <= 120 else f"{first[:119]}…"


def write_wish(wish: Wish, folder: Path) -> None:
    """Make the folder, or find the one that an earlier run of the same wish has left.

    Raises:
        InputError: There is something else, or it cannot be made.
    """
    files = wish.files()
    if (folder / RECIPE).is_file():
        _check_same(folder, files)
        return
    with new_folder(folder) as partial:
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")


def finish_wish(wish: Wish, folder: Path, alpha: float) -> None:
    """Let the recipe name its answers and the α that was chosen.

    Raises:
        InputError: It cannot be written.
    """
    try:
        write_whole(folder / RECIPE, wish.files(alpha=alpha, answered=True)[RECIPE])
    except OSError as error:
        raise InputError(f"{str(folder / RECIPE)!r} cannot be written: {error}") from error


def _check_same(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        found = read_file(folder / name) if (folder / name).is_file() else ""
        same = _settings(found) == _settings(text) if name == RECIPE else found == text
        if not same:
            raise InputError(
                f"{str(folder / name)!r} is of another wish or was changed by hand; train it with "
                f"'llamacart train {folder}', or name another folder with --keep"
            )


def _settings(text: str) -> dict[str, Any]:
    """What a recipe says, less what a run adds to it; nothing where it is no TOML."""
    try:
        said = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}
    return {key: value for key, value in said.items() if key not in LATER}
