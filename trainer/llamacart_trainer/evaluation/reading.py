"""What a recipe's `[evaluation]` table and its files say of prompts, answers and behaviour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacart.errors import RecipeError
from llamacart_trainer.evaluation import scorers
from llamacart_trainer.evaluation.contents import Answer, Prompt
from llamacart_trainer.evaluation.prompts.conversation import Preamble
from llamacart_trainer.recipe.facts import read_facts
from llamacart_trainer.recipe.questions import builtin_questions
from llamacart_trainer.recipe.records import (
    ANSWER,
    PROMPT,
    check_form,
    read_pairs,
    read_records,
    text_of,
)
from llamacart_trainer.recipe.turns import Turn, read_chat_pairs, read_turns

if TYPE_CHECKING:
    from pathlib import Path

    from llamacart_trainer.evaluation.scorers import Scorer
    from llamacart_trainer.recipe.evaluation import EvaluationSettings
    from llamacart_trainer.recipe.facts import Fact
    from llamacart_trainer.recipe.recipe import Recipe, Task
    from llamacart_trainer.recipe.records import TextPair
    from llamacart_trainer.recipe.turns import ChatPair


def scorer_of(settings: EvaluationSettings, folder: Path) -> Scorer | None:
    """The scorer that the table names; None where none does.

    Raises:
        RecipeError: It cannot be used.
    """
    if settings.language:
        return scorers.language(settings.language)
    if settings.target_words or settings.forbidden_words:
        return scorers.words(settings.target_words, settings.forbidden_words)
    if settings.scorer:
        return scorers.users_own(settings.scorer, folder)
    return None


def behaviour_of(settings: EvaluationSettings, *, facts: bool = False) -> str:
    """What behaviour is, for people.

    Args:
        settings: The table.
        facts: Whether there are facts, which are it where nothing else is.
    """
    if settings.language:
        return f"share of continuations in language {settings.language!r}"
    if settings.target_words or settings.forbidden_words:
        wanted = ", ".join(settings.target_words)
        unwanted = ", ".join(settings.forbidden_words)
        parts = [f"with one of: {wanted}"] if wanted else []
        parts += [f"without: {unwanted}"] if unwanted else []
        return f"share of continuations {' and '.join(parts)}"
    if settings.scorer:
        return f"mean of {settings.scorer}"
    if settings.answers:
        return "share of answers whose target is likelier than the original"
    if facts:
        return "mean of efficacy, paraphrases and neighbours of facts, by log-odds"
    return "not measured"


PROMPTED = "prompted model"
SYSTEM = "system prompt"
EXAMPLES = "examples"
"""Labels of the prompts that may stand beside cartridges."""


def preambles_of(task: Task, settings: EvaluationSettings, folder: Path) -> tuple[Preamble, ...]:
    """The prompts that stand beside the cartridges: that which a recipe distils, and baselines.

    A prompt that has a system text and examples is beside its parts.

    Raises:
        NotFoundError: There is no such file of examples.
        RecipeError: It cannot be used.
    """
    found: list[Preamble] = []
    system: tuple[Turn, ...] = ()
    examples: tuple[Turn, ...] = ()
    if task.prompt is not None:
        turns = task.prompt.turns
        found.append(Preamble(PROMPTED, turns, teacher=True))
        system = tuple(turn for turn in turns if turn.role == "system")
        examples = tuple(turn for turn in turns if turn.role != "system")
        if not (system and examples):
            system = examples = ()
    if settings.system:
        system = (Turn("system", settings.system),)
    if settings.examples:
        examples = read_turns(folder / settings.examples)
    found += [Preamble(SYSTEM, system)] if system else []
    found += [Preamble(EXAMPLES, examples)] if examples else []
    return tuple(found)


def prompts_of(recipe: Recipe, folder: Path) -> tuple[Prompt, ...]:
    """A recipe's test prompts; where it distils a prompt and names none, those that ship.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used.
    """
    if recipe.prompts:
        return read_prompts(folder / recipe.prompts)
    if recipe.kind == "prompt":
        return tuple(Prompt(question) for question in builtin_questions("eval"))
    return ()


def facts_of(recipe: Recipe, settings: EvaluationSettings, folder: Path) -> tuple[Fact, ...]:
    """The facts to ask about; none where there are none.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used.
    """
    kind: str = recipe.kind
    own = recipe.train if kind == "facts" else None
    name = settings.facts or own
    return read_facts(folder / name) if name else ()


def read_heldout(recipe: Recipe, folder: Path) -> tuple[TextPair | ChatPair, ...]:
    """A recipe's held-out pairs, in the form of its own; none where it names none.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used.
    """
    if not recipe.heldout:
        return ()
    path = folder / recipe.heldout
    return read_chat_pairs(path) if recipe.format == "chat" else read_pairs(path)


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Read a file of `{"prompt", "reference"?}`.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used.
    """
    prompts = []
    for where, record in read_records(path, PROMPT):
        check_form(record, (PROMPT,), where)
        given = record.get("reference") is not None
        reference = text_of(record, "reference", where) if given else None
        prompts.append(Prompt(text_of(record, "prompt", where), reference))
    return tuple(prompts)


def read_answers(path: Path) -> tuple[Answer, ...]:
    """Read a file of `{"prompt", "target", "original", "neutral"?}`.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used, or there is no answer that should change.
    """
    answers = []
    for where, record in read_records(path, ANSWER):
        check_form(record, (ANSWER,), where)
        neutral = record.get("neutral", False)
        if not isinstance(neutral, bool):
            raise RecipeError(f"{where}: 'neutral' has value {neutral!r}; true or false is needed")
        prompt, target, original = (text_of(record, key, where) for key in ANSWER.required)
        answers.append(Answer(prompt, target, original, neutral))
    if all(answer.neutral for answer in answers):
        raise RecipeError(f"{path}: no answers")
    return tuple(answers)
