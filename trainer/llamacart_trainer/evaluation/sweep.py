"""Scores over a range of strengths, beside the unsteered model and the ceiling."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llamacart.passes.control_vector import ControlVector
from llamacart_trainer.evaluation.evaluator import Evaluator
from llamacart_trainer.evaluation.facts.figures import TOLD
from llamacart_trainer.evaluation.results import Point, Scores
from llamacart_trainer.evaluation.work import Work, guess_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llamacart.llama.model import Model
    from llamacart_trainer.evaluation.evaluator import Contender
    from llamacart_trainer.evaluation.plan import EvaluationPlan
    from llamacart_trainer.evaluation.results import Kind
    from llamacart_trainer.evaluation.work import OnPart


def sweep(
    model: Model,
    cartridges: Sequence[Contender],
    alphas: Sequence[Sequence[float]],
    plan: EvaluationPlan,
    *,
    labels: Sequence[str] | None = None,
    on_point: Callable[[Point], None] = lambda _point: None,
    on_part: OnPart = lambda _what, _share: None,
    n_threads: int | None = None,
    with_perplexity: bool = True,
    with_nll: bool = True,
    with_unsteered: bool = True,
) -> list[Point]:
    """The unsteered model, the ceiling and the plan's prompts, and every contender at its αs.

    Args:
        model: The model.
        cartridges: Cartridges and control vectors.
        alphas: Strengths of each contender.
        plan: What is measured.
        labels: Names of the contenders; their own without.
        on_point: Called with each point, for progress.
        on_part: Called as a point is measured.
        n_threads: Threads for llama.cpp.
        with_perplexity: See `Evaluator`.
        with_nll: Likewise.
        with_unsteered: Whether the unsteered model and the ceiling are among the points.
    """
    judge = Evaluator(model, plan, n_threads, with_perplexity, with_nll)
    names = list(labels) if labels is not None else [c.name for c in cartridges]
    points: list[Point] = []
    taught = int(plan.teacher is not None)  # its answers are read beside
    work = Work(on_part, guess_rows(plan, 1 + with_nll + taught))

    def add(point: Point) -> None:
        points.append(point)
        on_point(point)

    if with_unsteered:
        with work.on("unsteered", "unsteered", guess_rows(plan, 2 * taught)):
            scores = judge.score(None, 0.0)
        add(Point("unsteered", "unsteered", 0.0, scores))
        with work.on("ceiling", "ceiling"):
            ceiling = judge.ceiling()
        if ceiling is not None:
            add(Point("ceiling", "ceiling", 0.0, ceiling))
    for point in prompt_points(judge, work):
        add(point)
    for name, contender, strengths in zip(names, cartridges, alphas, strict=True):
        kind: Kind = "control-vector" if isinstance(contender, ControlVector) else "cartridge"
        for alpha in strengths:
            with work.on(f"{name} at α = {alpha:g}", "steered"):
                scores = judge.score(contender, alpha)
            add(Point(name, kind, alpha, scores))
    return points


def point_count(
    plans: Sequence[EvaluationPlan], contenders: int, alphas: Sequence[float] | None = None
) -> int:
    """How many points an evaluation has: every α on the plan that chooses, one on the test's.

    Args:
        plans: The plan that chooses α, where there is one, and that of the test.
        contenders: Cartridges and control vectors.
        alphas: Strengths; the test plan's without.
    """
    *_, test = plans
    strengths = len(set(test.alphas if alphas is None else alphas))
    beside = [
        1 + any(p.reference is not None for p in plan.prompts) + len(plan.beside) for plan in plans
    ]
    return sum(beside) + contenders * (strengths + (len(plans) > 1))


def prompt_points(judge: Evaluator, work: Work | None = None) -> Iterator[Point]:
    """The unsteered model behind each of a plan's prompts and facts, where that is measured."""
    work = work or Work()
    for preamble in judge.plan.preambles:
        with work.on(preamble.label, "prompt"):
            scores = judge.behind(preamble)
        if scores is not None:
            kind: Kind = "prompted" if preamble.teacher else "prompt"
            yield Point(preamble.label, kind, 0.0, scores)
    for told in TOLD if judge.facts is not None else ():
        started = time.perf_counter()
        with work.on(told, "told"):
            facts = None if judge.facts is None else judge.facts.told(told)
        if facts is not None:
            seconds = time.perf_counter() - started
            scores = Scores(facts.mean, None, None, None, facts=facts, seconds=seconds)
            yield Point(told, "prompt", 0.0, scores)
