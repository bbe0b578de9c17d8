"""Everything an evaluation holds: the sweep of all contenders, their ranks and held-out figures."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from llamacart import __version__
from llamacart.cartridge import Cartridge
from llamacart_trainer.evaluation.bootstrap import difference
from llamacart_trainer.evaluation.evaluator import Evaluator, sweep
from llamacart_trainer.evaluation.heldout import HeldOutEvaluator
from llamacart_trainer.evaluation.objective import best_alphas, frontier
from llamacart_trainer.evaluation.results import CartridgeFacts, Difference, Evaluation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llamacart.model import Model
    from llamacart_trainer.evaluation.evaluator import Contender
    from llamacart_trainer.evaluation.plan import EvaluationPlan
    from llamacart_trainer.evaluation.results import Point
    from llamacart_trainer.pairing import PairedRows


def compare(
    model: Model,
    contenders: Sequence[Contender],
    plan: EvaluationPlan,
    *,
    alphas: Sequence[float] | None = None,
    samples: Sequence[PairedRows] = (),
    evaluator: Evaluator | None = None,
    on_point: Callable[[Point], None] = lambda _point: None,
    n_threads: int | None = None,
) -> Evaluation:
    """Sweep all contenders, rank their points, and look at the cartridges' held-out rows.

    Args:
        model: The model.
        contenders: Cartridges and control vectors.
        plan: What is measured.
        alphas: Strengths; the plan's without.
        samples: Held-out paired rows; none for no figures on them.
        evaluator: Brings what earlier points of the plan have in common.
        on_point: Called with each point, for progress.
        n_threads: Threads for llama.cpp.
    """
    labels = unique_labels([contender.name for contender in contenders])
    judge = evaluator or Evaluator(model, plan, n_threads)
    points = sweep(
        model,
        contenders,
        list(plan.alphas) if alphas is None else alphas,
        plan,
        labels=labels,
        evaluator=judge,
        on_point=on_point,
    )
    heldout = HeldOutEvaluator(model, samples, n_threads) if samples else None
    facts = [
        _facts(label, contender, heldout)
        for label, contender in zip(labels, contenders, strict=True)
        if isinstance(contender, Cartridge)
    ]
    best = best_alphas(points, plan.objective)
    return Evaluation(
        recipe=plan.name,
        model=str(model.fingerprint),
        behaviour=plan.behaviour,
        objective=str(plan.objective),
        prompts=tuple(prompt.text for prompt in plan.prompts),
        references=tuple(prompt.reference for prompt in plan.prompts),
        points=tuple(points),
        best=best,
        frontier=tuple((point.label, point.alpha) for point in frontier(points)),
        cartridges=tuple(facts),
        differences=differences(points, labels, best, seed=plan.seed),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tool_version=__version__,
    )


COMPARED = (
    "behaviour",
    "log_odds",
    "p_target",
    "p_leaked",
    "nll",
    "nll_settled",
    "distinct",
    "repetition",
    "kl",
)
"""Fields of `Scores` in which contenders are set against each other."""


def differences(
    points: Sequence[Point], labels: Sequence[str], best: Mapping[str, float], *, seed: int = 0
) -> tuple[Difference, ...]:
    """The first contender against each of the others, on the same prompts.

    Args:
        points: Every contender at every strength.
        labels: The contenders.
        best: For each label the α at which it takes part.
        seed: Of the resampling.
    """
    at = {(point.label, point.alpha): point.scores for point in points}
    first, *others = ((label, best[label]) for label in labels)
    found = []
    for other in others:
        figures = {}
        for field in COMPARED:
            one, two = getattr(at[first], field), getattr(at[other], field)
            apart = difference(one, two, seed=seed) if one and two else None
            if apart is not None:
                figures[field] = apart
        found.append(Difference(*first, *other, figures))
    return tuple(found)


def unique_labels(names: Sequence[str]) -> list[str]:
    """The names, numbered where one comes twice or is that of the unsteered model's points."""
    taken = Counter(["unsteered", "ceiling"])
    labels = []
    for name in names:
        label, number = name, 2
        while taken[label]:
            label, number = f"{name} ({number})", number + 1
        taken[label] += 1
        labels.append(label)
    return labels


def _facts(label: str, cartridge: Cartridge, heldout: HeldOutEvaluator | None) -> CartridgeFacts:
    metadata = cartridge.metadata
    return CartridgeFacts(
        name=label,
        description=metadata.description,
        solver=metadata.solver,
        content_hash=cartridge.content_hash,
        default_alpha=metadata.default_alpha,
        n_active=cartridge.n_active,
        settings=dict(metadata.settings),
        diagnostics=dict(metadata.diagnostics),
        heldout=None if heldout is None else heldout.score(cartridge),
    )
