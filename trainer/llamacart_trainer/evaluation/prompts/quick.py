"""The few figures that end a distillation: α is chosen on some prompts and tested on others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llamacart_trainer.evaluation.evaluate import evaluate
from llamacart_trainer.evaluation.plan import split_plans
from llamacart_trainer.evaluation.prompts.closing import closing_sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamacart.cartridge import Cartridge
    from llamacart.llama.model import Model
    from llamacart_trainer.evaluation.plan import EvaluationPlan
    from llamacart_trainer.evaluation.results import Evaluation, Point
    from llamacart_trainer.evaluation.work import OnPart
    from llamacart_trainer.recipe.recipe import Task

ALPHAS = (0.7, 1.0, 1.3)

CHOOSE_ON = 5
"""Prompts that choose α."""
TEST_ON = 15
TOKENS = 24
"""Tokens of an answer, at most."""
NEUTRAL_TEXTS = 5


@dataclass(frozen=True)
class QuickEvaluation:
    """What a cartridge does, in a sentence and in figures.

    Attributes:
        alpha: The α that was chosen.
        sentence: How near the cartridge comes to the prompt there.
        evaluation: All figures.
    """

    alpha: float
    sentence: str
    evaluation: Evaluation


def quick_evaluation(
    task: Task,
    model: Model,
    cartridge: Cartridge,
    alphas: Sequence[float] = ALPHAS,
    *,
    on_point: Callable[[Point], None] = lambda _point: None,
    on_part: OnPart = lambda _what, _share: None,
    n_threads: int | None = None,
) -> QuickEvaluation:
    """Choose a cartridge's α and measure it there, on so few prompts that it takes seconds.

    Args:
        task: The recipe, with prompts of its own or of kind `prompt`.
        model: The model.
        cartridge: The cartridge.
        alphas: Strengths to choose from; one alone is tested as it is.
        on_point: Called with each point, for progress.
        on_part: Called as a point is measured.
        n_threads: Threads for llama.cpp.

    Raises:
        RecipeError: The recipe has nothing to choose or to test on.
    """
    validation, test = split_plans(task)
    evaluation = evaluate(
        model,
        [cartridge],
        _brief(test, TEST_ON),
        validation=_brief(validation, CHOOSE_ON) if len(set(alphas)) > 1 else None,
        alphas=alphas,
        brief=test.teacher is not None,
        on_point=on_point,
        on_part=on_part,
        n_threads=n_threads,
    )
    point = next(point for point in evaluation.tests if point.kind == "cartridge")
    return QuickEvaluation(point.alpha, closing_sentence(point, evaluation.tests), evaluation)


def _brief(plan: EvaluationPlan, prompts: int) -> EvaluationPlan:
    """The plan with so many prompts, beside the prompt that is distilled alone, if one is."""
    few = plan.first(prompts)
    if few.teacher is not None:
        few = replace(few, preambles=(few.teacher,))
    return replace(few, tokens=min(few.tokens, TOKENS), neutral=few.neutral[:NEUTRAL_TEXTS])
