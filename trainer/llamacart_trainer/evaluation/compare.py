"""Everything an evaluation holds: the sweep of all contenders, their ranks and held-out figures."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from llamacart import __version__
from llamacart.cartridge import Cartridge
from llamacart.errors import InputError
from llamacart_trainer.evaluation.heldout import HeldOutEvaluator
from llamacart_trainer.evaluation.objective import best_alphas, frontier
from llamacart_trainer.evaluation.results import CartridgeFacts, Difference, Evaluation
from llamacart_trainer.evaluation.significance import contrast, corrected
from llamacart_trainer.evaluation.sweep import sweep
from llamacart_trainer.evaluation.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamacart.llama.model import Model
    from llamacart_trainer.evaluation.evaluator import Contender
    from llamacart_trainer.evaluation.plan import EvaluationPlan
    from llamacart_trainer.evaluation.results import Point, Scores
    from llamacart_trainer.evaluation.significance import Contrast
    from llamacart_trainer.evaluation.work import OnPart
    from llamacart_trainer.recipe.pairing import PairedRows


def compare(
    model: Model,
    contenders: Sequence[Contender],
    plan: EvaluationPlan,
    *,
    validation: EvaluationPlan | None = None,
    alphas: Sequence[float] | None = None,
    samples: Sequence[PairedRows] = (),
    brief: bool = False,
    on_point: Callable[[Point], None] = lambda _point: None,
    on_part: OnPart = lambda _what, _share: None,
    n_threads: int | None = None,
) -> Evaluation:
    """Choose each contender's α, test it there, and look at the cartridges' held-out rows.

    What α is chosen on is not what is tested: the best of five would look better than it is on
    the prompts that it was chosen on, and be called better than an equal.

    Args:
        model: The model.
        contenders: Cartridges and control vectors.
        plan: What is tested.
        validation: What α is chosen on; None where there is one.
        alphas: Strengths; the plan's without.
        samples: Held-out paired rows; none for no figures on them.
        brief: Leave out what costs a pass and chooses nothing where KL to the prompted model
            does: NLL, perplexity, and the unsteered model on the texts that choose α.
        on_point: Called with each point, for progress.
        on_part: Called as a point is measured, and as held-out pairs run.
        n_threads: Threads for llama.cpp.

    Raises:
        InputError: There are several strengths and nothing to choose on, or a prompt is shared.
    """
    prompts = plan.beside
    labels = unique_labels([contender.name for contender in contenders], prompts)
    strengths = sorted(set(plan.alphas if alphas is None else alphas))

    def measure(on: EvaluationPlan, each: Sequence[Sequence[float]], *, whole: bool) -> list[Point]:
        return sweep(
            model,
            contenders,
            each,
            on,
            labels=labels,
            on_point=on_point,
            on_part=on_part,
            n_threads=n_threads,
            with_perplexity=whole and not brief,
            with_nll=not brief,
            with_unsteered=whole or not brief,
        )

    if validation is None:
        if len(strengths) > 1:
            raise InputError(f"there is nothing to choose one of {len(strengths)} α on")
        tests = points = measure(plan, [strengths] * len(labels), whole=True)
        objective = plan.objective.beside(points)
        best = best_alphas(points, objective)
    else:
        _check_apart(validation, plan)
        points = measure(validation, [strengths] * len(labels), whole=False)
        objective = validation.objective.beside(points)
        best = best_alphas(points, objective)
        tests = measure(plan, [[best[label]] for label in labels], whole=True)
        best = {point.label: point.alpha for point in tests}
    front = frontier(points, prompted=objective.prompted)
    heldout = HeldOutEvaluator(model, samples, n_threads) if samples else None
    work = Work(on_part, _all_rows(samples))
    facts = []
    for label, contender in zip(labels, contenders, strict=True):
        if isinstance(contender, Cartridge):
            what = f"{label} on held-out pairs"
            # The first runs the pairs unsteered too.
            with work.on(what, "held-out", work.guess) if heldout else nullcontext():
                facts.append(_facts(label, contender, heldout))
    return Evaluation(
        recipe=plan.name,
        model=str(model.fingerprint),
        behaviour=plan.behaviour,
        objective=str(objective),
        prompts=tuple(prompt.text for prompt in plan.prompts),
        references=tuple(prompt.reference for prompt in plan.prompts),
        points=tuple(points),
        tests=tuple(tests),
        best=best,
        frontier=tuple((point.label, point.alpha) for point in front),
        cartridges=tuple(facts),
        tested_on=plan.measured,
        chosen_on=None if validation is None else validation.measured,
        differences=differences(tests, labels, prompts, seed=plan.seed),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tool_version=__version__,
    )


COMPARED = (
    "behaviour",
    "efficacy",
    "paraphrases",
    "neighbours",
    "kl_prompted",
    "agreement",
    "ended",
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
    tests: Sequence[Point], labels: Sequence[str], prompts: Sequence[str] = (), *, seed: int = 0
) -> tuple[Difference, ...]:
    """The first contender against the plan's prompts and each of the others, on the same texts.

    All figures of all of them are one family: a table of equals holds a false verdict as seldom
    as `significance.LEVEL` says.

    Args:
        tests: Every contender at its α, on prompts that have not chosen it.
        labels: The contenders.
        prompts: Labels of the prompts that stand beside them.
        seed: Of the resampling.
    """
    if not labels:
        return ()
    at = {point.label: point for point in tests}
    first, *others = labels
    # A plan without prompts to continue measures nothing behind a text.
    others = [*(prompt for prompt in prompts if prompt in at), *others]
    family = {
        (other, field): apart
        for other in others
        for field in COMPARED
        if (apart := _contrast(at[first].scores, at[other].scores, field, seed)) is not None
    }
    family = corrected(family)
    return tuple(
        Difference(
            first,
            at[first].alpha,
            other,
            at[other].alpha,
            {field: family[other, field] for field in COMPARED if (other, field) in family},
        )
        for other in others
    )


def _contrast(one: Scores, other: Scores, field: str, seed: int) -> Contrast | None:
    """The difference in a field; None where it was not measured for both."""
    a, b = getattr(one, field), getattr(other, field)
    return contrast(a, b, seed=seed) if a and b else None


def _check_apart(validation: EvaluationPlan, test: EvaluationPlan) -> None:
    """Refuse plans that share a prompt, an answer or a fact."""
    shared = {p.text for p in validation.prompts} & {p.text for p in test.prompts}
    shared |= {a.prompt for a in validation.answers} & {a.prompt for a in test.answers}
    shared |= {fact.text for fact in validation.facts} & {fact.text for fact in test.facts}
    if shared:
        raise InputError(f"{min(shared)!r} is both to choose α on and to test it on")


def unique_labels(names: Sequence[str], taken_already: Sequence[str] = ()) -> list[str]:
    """The names, numbered where one comes twice or is that of another kind of point.

    Args:
        names: Of the contenders.
        taken_already: Labels of the prompts that stand beside them.
    """
    taken = Counter(["unsteered", "ceiling", *taken_already])
    labels = []
    for name in names:
        label, number = name, 2
        while taken[label]:
            label, number = f"{name} ({number})", number + 1
        taken[label] += 1
        labels.append(label)
    return labels


def _all_rows(samples: Sequence[PairedRows]) -> int:
    return sum(len(sample.source) + len(sample.target) for sample in samples)


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
