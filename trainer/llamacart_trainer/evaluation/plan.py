"""What is measured: prompts, answers, neutral texts, held-out pairs and the scorer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from llamacart.errors import RecipeError
from llamacart_trainer.evaluation.contents import Answer, Prompt
from llamacart_trainer.evaluation.facts.figures import TOLD
from llamacart_trainer.evaluation.fluency import LEAST_TOKENS
from llamacart_trainer.evaluation.objective import Objective
from llamacart_trainer.evaluation.prompts.conversation import Preamble, asks
from llamacart_trainer.evaluation.reading import (
    behaviour_of,
    facts_of,
    preambles_of,
    prompts_of,
    read_answers,
    read_heldout,
    read_prompts,
    scorer_of,
)
from llamacart_trainer.evaluation.results import Measured
from llamacart_trainer.recipe.evaluation import DEFAULT_ALPHAS, EvaluationSettings
from llamacart_trainer.recipe.recipe import load_task
from llamacart_trainer.recipe.records import TextPair, read_texts
from llamacart_trainer.recipe.words import beginning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamacart_trainer.evaluation.scorers import Scorer
    from llamacart_trainer.recipe.facts import Fact
    from llamacart_trainer.recipe.recipe import Recipe, Task
    from llamacart_trainer.recipe.turns import ChatPair

Item = TypeVar("Item")

TEXT_TOKENS, ANSWER_TOKENS = 24, 64
"""Greedy tokens a prompt where a recipe says nothing: of texts, and of answers."""

VALIDATION_SHARE = 0.35
"""Share of a held-out source text's words that makes a validation prompt."""

VALIDATION_WORDS = 3
"""Fewest words of such a prompt."""


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
        recipe: Says how prompts are written; None for texts to continue.
        preambles: Texts before the prompts that stand beside the cartridges; one at most is the
            prompt that the recipe distils.
        facts: To ask about; their mean is the behaviour where nothing else is.
    """

    name: str
    prompts: tuple[Prompt, ...]
    answers: tuple[Answer, ...] = ()
    neutral: tuple[str, ...] = ()
    heldout: tuple[TextPair | ChatPair, ...] = ()
    scorer: Scorer | None = None
    behaviour: str = "not measured"
    tokens: int = TEXT_TOKENS
    alphas: tuple[float, ...] = DEFAULT_ALPHAS
    objective: Objective = Objective()  # noqa: RUF009 (frozen)
    seed: int = 0
    recipe: Recipe | None = None
    preambles: tuple[Preamble, ...] = ()
    facts: tuple[Fact, ...] = ()

    def __post_init__(self) -> None:
        if not self.prompts and not self.answers and not self.facts:
            raise RecipeError(
                f"recipe {self.name!r} has neither prompts nor answers nor facts to evaluate"
            )

    @property
    def measured(self) -> Measured:
        """How many prompts, answers, neutral texts and facts there are."""
        return Measured(len(self.prompts), len(self.answers), len(self.neutral), len(self.facts))

    @property
    def asks(self) -> bool:
        """Whether prompts are a user's messages, and what follows are answers that end."""
        return asks(self.recipe)

    @property
    def when(self) -> tuple[str, ...] | None:
        """What cartridges wait for while they are measured; None for what they say themselves.

        Facts name their subjects. The prompts of another recipe need not hold what its cartridge
        waits for: they are measured as if it had been said.
        """
        recipe = self.recipe
        return () if recipe is not None and recipe.when and recipe.kind != "facts" else None

    @property
    def beside(self) -> tuple[str, ...]:
        """Labels of the prompts that stand beside the cartridges, where they are measured."""
        return (*(preamble.label for preamble in self.preambles), *(TOLD if self.facts else ()))

    @property
    def teacher(self) -> Preamble | None:
        """The prompt that the recipe distils, None where it distils none."""
        return next((preamble for preamble in self.preambles if preamble.teacher), None)

    def first(self, n: int) -> EvaluationPlan:
        """The plan with `n` prompts, `n` facts, and `n` answers of each kind, alone."""
        wanted = [a for a in self.answers if not a.neutral][:n]
        neutral = [a for a in self.answers if a.neutral][:n]
        return replace(
            self, prompts=self.prompts[:n], answers=(*wanted, *neutral), facts=self.facts[:n]
        )


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
    facts = facts_of(recipe, settings, folder)
    plan = EvaluationPlan(
        name=recipe.name,
        prompts=prompts_of(recipe, folder),
        answers=read_answers(folder / settings.answers) if settings.answers else (),
        neutral=read_texts(folder / settings.neutral)
        if settings.neutral
        else fixed_text("english"),
        heldout=read_heldout(recipe, folder),
        scorer=scorer_of(settings, folder),
        behaviour=behaviour_of(settings, facts=bool(facts)),
        tokens=settings.tokens or (ANSWER_TOKENS if asks(recipe) else TEXT_TOKENS),
        alphas=tuple(settings.alphas),
        objective=Objective(settings.target, settings.kl_weight, settings.distinct),
        recipe=recipe,
        preambles=preambles_of(task, settings, folder),
        facts=facts,
    )
    return _measurable(plan)


def _measurable(plan: EvaluationPlan) -> EvaluationPlan:
    """The plan with an objective that demands nothing of what it does not measure."""
    scored = plan.scorer is not None and bool(plan.prompts)
    answered = any(not answer.neutral for answer in plan.answers)
    texts = bool(plan.prompts) and plan.tokens >= LEAST_TOKENS
    prompted = plan.teacher is not None and bool(plan.prompts)
    objective = plan.objective.of(
        behaviour=scored or answered or bool(plan.facts), texts=texts, prompted=prompted
    )
    return replace(plan, objective=objective)


def split_plans(
    recipe_or_task: Path | Task, settings: EvaluationSettings | None = None
) -> tuple[EvaluationPlan, EvaluationPlan]:
    """The plan that `tune` and `eval` choose by, and the one that what was chosen is tested on.

    They share no prompt, answer, fact or neutral text. Validation prompts come from the file
    `[evaluation] validation`, else they are the beginnings of held-out source texts that are raw;
    a text that is a prompt of the test is left out. Where neither gives any, every second prompt,
    from the first on, serves validation, and the test has the others. So it is with the answers, of
    either kind apart, with the facts, and with the neutral texts (one alone serves both: no test
    rests on it).

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
        prompts = read_prompts((task.folder or Path()) / settings.validation)
    else:
        prompts = tuple(
            Prompt(beginning(pair.source, VALIDATION_SHARE, VALIDATION_WORDS))
            for pair in plan.heldout
            if isinstance(pair, TextPair)
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
    facts = _halves(plan.facts, lambda fact: fact.text)
    texts = _halves(plan.neutral, str)
    if not all(texts):
        texts = plan.neutral, plan.neutral
    if (
        (plan.prompts and not (chosen and left))
        or (plan.answers and not all(wanted))
        or (plan.facts and not all(facts))
    ):
        raise RecipeError(
            f"recipe {plan.name!r} has nothing to validate on: name a file in [evaluation] "
            "validation, or held-out pairs, or give two prompts, answers and facts at least"
        )
    validation, test = (
        replace(plan, prompts=p, answers=(*wanted[i], *kept[i]), neutral=texts[i], facts=facts[i])
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
