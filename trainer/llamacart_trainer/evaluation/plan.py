"""What is measured: prompts, answers, neutral texts, held-out pairs and the scorer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from llamacart.errors import RecipeError
from llamacart_trainer.evaluation import scorers
from llamacart_trainer.evaluation.fluency import LEAST_TOKENS
from llamacart_trainer.evaluation.objective import Objective
from llamacart_trainer.evaluation.results import Measured
from llamacart_trainer.recipe.evaluation import DEFAULT_ALPHAS, EvaluationSettings
from llamacart_trainer.recipe.recipe import load_task
from llamacart_trainer.recipe.records import (
    ANSWER,
    PROMPT,
    check_form,
    read_pairs,
    read_records,
    read_texts,
    text_of,
)
from llamacart_trainer.recipe.words import beginning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamacart_trainer.evaluation.scorers import Scorer
    from llamacart_trainer.recipe.recipe import Task, TextPair

Item = TypeVar("Item")

VALIDATION_SHARE = 0.35
"""Share of a held-out source text's words that makes a validation prompt."""

VALIDATION_WORDS = 3
"""Fewest words of such a prompt."""


@dataclass(frozen=True)
class Prompt:
    """A text to continue, and how the wanted text would begin instead (for the ceiling)."""

    text: str
    reference: str | None = None


@dataclass(frozen=True)
class Answer:
    """A prompt with the answer that a cartridge should give and the one the model gives.

    Attributes:
        prompt: Text before the answer.
        target: The wanted answer, with its leading space.
        original: The model's own.
        neutral: A prompt whose answer should stay: P(target) is leakage there.
    """

    prompt: str
    target: str
    original: str
    neutral: bool = False


@dataclass(frozen=True)
class EvaluationPlan:
    """Everything that an evaluation needs beside a model and a cartridge.

    Attributes:
        name: Of the recipe.
        prompts: To continue; may be empty where there are answers.
        answers: For log-odds.
        neutral: Texts that steering should leave alone.
        heldout: Pairs for fidelity.
        scorer: Behaviour of continuations; None where answers measure it, or nothing does.
        behaviour: What it is, for people.
        tokens: Greedy tokens a prompt.
        alphas: Strengths of a sweep.
        objective: How points are ranked.
        seed: Of the bootstrap.
    """

    name: str
    prompts: tuple[Prompt, ...]
    answers: tuple[Answer, ...] = ()
    neutral: tuple[str, ...] = ()
    heldout: tuple[TextPair, ...] = ()
    scorer: Scorer | None = None
    behaviour: str = "not measured"
    tokens: int = 24
    alphas: tuple[float, ...] = DEFAULT_ALPHAS
    objective: Objective = Objective()  # noqa: RUF009 (frozen)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.prompts and not self.answers:
            raise RecipeError(f"recipe {self.name!r} has neither prompts nor answers to evaluate")

    @property
    def measured(self) -> Measured:
        """How many prompts, answers and neutral texts there are."""
        return Measured(len(self.prompts), len(self.answers), len(self.neutral))

    def first(self, n: int) -> EvaluationPlan:
        """The plan with `n` prompts, and `n` answers of each kind, alone."""
        wanted = [a for a in self.answers if not a.neutral][:n]
        neutral = [a for a in self.answers if a.neutral][:n]
        return replace(self, prompts=self.prompts[:n], answers=(*wanted, *neutral))


def fixed_text(language: str) -> tuple[str, ...]:
    """Sentences of the text that ships with the package: `english` or `french`."""
    text = files("llamacart_trainer.evaluation").joinpath("texts", f"{language}.txt")
    return tuple(text.read_text(encoding="utf-8").splitlines())


def load_plan(
    recipe_or_task: Path | Task, settings: EvaluationSettings | None = None
) -> EvaluationPlan:
    """The test plan of a recipe folder.

    Args:
        recipe_or_task: The folder, or what was read from it.
        settings: In place of the recipe's `[evaluation]` table.

    Raises:
        NotFoundError: The recipe or a file it names does not exist.
        RecipeError: Something in them cannot be used.
    """
    task = _task(recipe_or_task)
    recipe, folder = task.recipe, task.folder or Path()
    settings = settings or recipe.evaluation
    plan = EvaluationPlan(
        name=recipe.name,
        prompts=_prompts(folder / recipe.prompts) if recipe.prompts else (),
        answers=_answers(folder / settings.answers) if settings.answers else (),
        neutral=read_texts(folder / settings.neutral)
        if settings.neutral
        else fixed_text("english"),
        heldout=read_pairs(folder / recipe.heldout) if recipe.heldout else (),
        scorer=_scorer(settings, folder),
        behaviour=_behaviour(settings),
        tokens=settings.tokens,
        alphas=tuple(settings.alphas),
        objective=Objective(settings.target, settings.kl_weight, settings.distinct),
    )
    return _measurable(plan)


def _measurable(plan: EvaluationPlan) -> EvaluationPlan:
    """The plan with an objective that demands nothing of what it does not measure."""
    scored = plan.scorer is not None and bool(plan.prompts)
    answered = any(not answer.neutral for answer in plan.answers)
    texts = bool(plan.prompts) and plan.tokens >= LEAST_TOKENS
    objective = plan.objective.of(behaviour=scored or answered, texts=texts)
    return replace(plan, objective=objective)


def split_plans(
    recipe_or_task: Path | Task, settings: EvaluationSettings | None = None
) -> tuple[EvaluationPlan, EvaluationPlan]:
    """The plan that `tune` and `eval` choose by, and the one that what was chosen is tested on.

    They share no prompt, no answer and no neutral text. Validation prompts come from the file
    `[evaluation] validation`, else they are the beginnings of the held-out source texts; a text
    that is a prompt of the test is left out. Where neither gives any, every second prompt, from
    the first on, serves validation, and the test has the others. So it is with the answers, of
    either kind apart, and with the neutral texts (one alone serves both: no test rests on it).

    Args:
        recipe_or_task: The recipe's folder, or what was read from it.
        settings: In place of the recipe's `[evaluation]` table.

    Raises:
        RecipeError: There is nothing to validate on, or nothing left to test on.
    """
    task = _task(recipe_or_task)
    settings = settings or task.recipe.evaluation
    plan = load_plan(task, settings)
    if settings.validation:
        prompts = _prompts((task.folder or Path()) / settings.validation)
    else:
        prompts = tuple(
            Prompt(beginning(pair.source, VALIDATION_SHARE, VALIDATION_WORDS))
            for pair in plan.heldout
        )
    tested = {_folded(prompt.text) for prompt in plan.prompts}
    fresh = {_folded(p.text): p for p in reversed(prompts) if _folded(p.text) not in tested}
    chosen, left = tuple(reversed(fresh.values())), plan.prompts
    if not chosen and left:
        chosen, left = _halves(left, lambda prompt: prompt.text)
    wanted, kept = (
        _halves([a for a in plan.answers if a.neutral is neutral], lambda answer: answer.prompt)
        for neutral in (False, True)
    )
    texts = _halves(plan.neutral, str)
    if not all(texts):
        texts = plan.neutral, plan.neutral
    if (plan.prompts and not (chosen and left)) or (plan.answers and not all(wanted)):
        raise RecipeError(
            f"recipe {plan.name!r} has nothing to validate on: name a file in [evaluation] "
            "validation, or held-out pairs, or give two prompts and two answers at least"
        )
    validation, test = (
        replace(plan, prompts=p, answers=(*wanted[i], *kept[i]), neutral=texts[i])
        for i, p in enumerate((chosen, left))
    )
    return _measurable(validation), _measurable(test)


def _task(recipe_or_task: Path | Task) -> Task:
    return load_task(recipe_or_task) if isinstance(recipe_or_task, Path) else recipe_or_task


def _halves(
    items: Sequence[Item], key: Callable[[Item], str]
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Every second item from the first on, and the others; equal texts go the same way."""
    places = {text: n for n, text in enumerate(dict.fromkeys(_folded(key(i)) for i in items))}
    first, second = (
        tuple(item for item in items if places[_folded(key(item))] % 2 == odd) for odd in (0, 1)
    )
    return first, second


def _folded(text: str) -> str:
    """A text without what makes no other prompt of it: case and the number of blanks."""
    return " ".join(text.casefold().split())


def _scorer(settings: EvaluationSettings, folder: Path) -> Scorer | None:
    if settings.language:
        return scorers.language(settings.language)
    if settings.target_words or settings.forbidden_words:
        return scorers.words(settings.target_words, settings.forbidden_words)
    if settings.scorer:
        return scorers.users_own(settings.scorer, folder)
    return None


def _behaviour(settings: EvaluationSettings) -> str:
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
    return "not measured"


def _prompts(path: Path) -> tuple[Prompt, ...]:
    prompts = []
    for where, record in read_records(path, PROMPT):
        check_form(record, (PROMPT,), where)
        given = record.get("reference") is not None
        reference = text_of(record, "reference", where) if given else None
        prompts.append(Prompt(text_of(record, "prompt", where), reference))
    return tuple(prompts)


def _answers(path: Path) -> tuple[Answer, ...]:
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
