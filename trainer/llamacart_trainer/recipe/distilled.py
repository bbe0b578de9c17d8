"""The prompt that a recipe distils, and the user messages that are answered behind it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamacart.disk.whole import write_whole
from llamacart.errors import RecipeError
from llamacart_trainer.recipe.lines import read_file
from llamacart_trainer.recipe.questions import questions_named
from llamacart_trainer.recipe.turns import Exchange, Turn, read_exchanges, read_turns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from llamacart_trainer.recipe.recipe import Recipe


@dataclass(frozen=True)
class DistilledPrompt:
    """A prompt whose effect a cartridge is to have.

    Attributes:
        turns: What stands before every question: a system text, examples, or both.
        questions: User messages; without repetition.
        answers: The model's answers to them behind the prompt, where they are known.
    """

    turns: tuple[Turn, ...]
    questions: tuple[str, ...]
    answers: tuple[Exchange, ...] | None = None

    def asked(self, question: str) -> tuple[Turn, ...]:
        """A question behind the prompt."""
        return (*self.turns, Turn("user", question))

    @property
    def as_json(self) -> dict[str, Any]:
        """All of it, for a digest."""
        answers = self.answers and [[a.prompt, a.text, a.ended] for a in self.answers]
        return {
            "turns": [[turn.role, turn.content] for turn in self.turns],
            "questions": self.questions if self.answers is None else [],
            "answers": answers,
        }


def distilled_prompt(
    system: str | None,
    examples: Sequence[Turn],
    questions: Iterable[str],
    answers: Iterable[Exchange] | None = None,
) -> DistilledPrompt:
    """A prompt from its parts.

    Raises:
        RecipeError: There is no part; the examples hold a system text beside `system`, or do not
            end in an answer; or there is no question.
    """
    turns = tuple(examples)
    if system is not None:
        if any(turn.role == "system" for turn in turns):
            raise RecipeError("there is a system text in the examples, and a prompt beside it")
        turns = (Turn("system", system), *turns)
    if not turns:
        raise RecipeError("no prompt is given: prompt, prompt_file or examples is needed")
    if turns[-1].role == "user":
        raise RecipeError(
            f"the examples end in a user's turn ({turns[-1].content[:40]!r}); its answer is missing"
        )
    asked = tuple(dict.fromkeys(questions))
    if not asked:
        raise RecipeError("there are no questions for the model to answer")
    return DistilledPrompt(turns, asked, None if answers is None else tuple(answers))


def read_prompt(recipe: Recipe, folder: Path) -> DistilledPrompt:
    """What a recipe names.

    Raises:
        NotFoundError: A file does not exist.
        RecipeError: It cannot be used.
    """
    system = recipe.prompt
    if recipe.prompt_file is not None:
        system = read_file(folder / recipe.prompt_file).strip()
        if not system:
            raise RecipeError(f"{folder / recipe.prompt_file}: no text")
    answers = None if recipe.answers is None else read_exchanges(folder / recipe.answers)
    if answers is not None:
        questions: Iterable[str] = [answer.prompt for answer in answers]
    else:
        questions = questions_named(recipe.questions, folder)
    examples = read_turns(folder / recipe.examples) if recipe.examples else ()
    try:
        return distilled_prompt(system, examples, questions, answers)
    except RecipeError as error:
        raise RecipeError(f"recipe {recipe.name!r}: {error.message}") from None


def write_answers(answers: Iterable[Exchange], path: Path) -> None:
    """Write answers as a recipe's `answers` names them, a line each.

    Raises:
        OSError: The file cannot be written; what was there before is still there.
    """
    records = [{"prompt": a.prompt, "text": a.text, "ended": a.ended} for a in answers]
    write_whole(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
