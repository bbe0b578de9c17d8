"""A whole evaluation: what cartridges do to texts, and how their maps do on held-out pairs."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from llamacart_trainer.evaluation.baselines import held_out_samples
from llamacart_trainer.evaluation.compare import compare
from llamacart_trainer.evaluation.heldout import MAX_PAIRS
from llamacart_trainer.evaluation.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamacart.llama.model import Model
    from llamacart_trainer.evaluation.evaluator import Contender
    from llamacart_trainer.evaluation.plan import EvaluationPlan
    from llamacart_trainer.evaluation.results import Evaluation, Point
    from llamacart_trainer.evaluation.work import OnPart
    from llamacart_trainer.recipe.recipe import Task


def evaluate(
    model: Model,
    contenders: Sequence[Contender],
    plan: EvaluationPlan,
    *,
    validation: EvaluationPlan | None = None,
    task: Task | None = None,
    alphas: Sequence[float] | None = None,
    brief: bool = False,
    on_point: Callable[[Point], None] = lambda _point: None,
    on_part: OnPart = lambda _what, _share: None,
    n_threads: int | None = None,
) -> Evaluation:
    """Choose each contender's strength on the validation plan, and measure it there on the other.

    Args:
        model: The model.
        contenders: Cartridges and control vectors.
        plan: What is tested.
        validation: What α is chosen on, of other prompts; needed for several strengths.
        task: Ties the plan's held-out pairs as its recipe says; without it the cartridges' maps
            are not measured on them.
        alphas: Strengths; the plan's without.
        brief: See `compare`.
        on_point: Called with each point, for progress.
        on_part: Called as a point is measured, and as held-out pairs run.
        n_threads: Threads for llama.cpp.

    Raises:
        InputError: There are several strengths and nothing to choose on, or a prompt is shared.
        RecipeError: A held-out pair does not suit the recipe's pairing.
    """
    samples = []
    if task is not None:
        held_out = plan.heldout[:MAX_PAIRS]
        # To be tied some have to run; of the points it is no part.
        work = Work(lambda what, _share: on_part(what, 0.0))
        with work.on("held-out pairs", "tied") if held_out else nullcontext():
            samples = held_out_samples(task, model, held_out, n_threads=n_threads)
    return compare(
        model,
        contenders,
        plan,
        validation=validation,
        alphas=alphas,
        samples=samples,
        brief=brief,
        on_point=on_point,
        on_part=on_part,
        n_threads=n_threads,
    )
