"""What a cartridge keeps of the search that chose its settings: two JSON objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamacart_trainer.evaluation.bootstrap import Estimate
from llamacart_trainer.evaluation.objective import frontier
from llamacart_trainer.evaluation.results import Point, Scores
from llamacart_trainer.report.stored import RecordedPoint
from llamacart_trainer.tuning.trials import scored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart_trainer.evaluation.objective import Objective
    from llamacart_trainer.evaluation.plan import EvaluationPlan
    from llamacart_trainer.tuning.trials import Trial


def evidence(
    trials: Sequence[Trial],
    best: Trial,
    scores: Scores,
    objective: Objective,
    test: EvaluationPlan,
    seconds: float,
) -> dict[str, Any]:
    """The winner, those behind it, and the test.

    Args:
        trials: All of the search.
        best: The winner, of the last rung.
        scores: Its figures on the test plan.
        objective: What was asked for on the last rung.
        test: The test plan.
        seconds: How long the search took.
    """
    top = sorted((t for t in trials if t.rung == best.rung and not t.error), key=lambda t: t.key)
    tested = scored(
        best.candidate,
        best.alpha,
        best.rung,
        len(test.prompts) + len(test.answers),
        scores,
        objective,
        scores.seconds,
    )
    return {
        "objective": str(objective),
        "trials": len(trials),
        "candidates": len({trial.candidate for trial in trials}),
        "seconds": round(seconds, 1),
        "chosen": _summary(best),
        "runners_up": [_summary(trial) for trial in top[1:6]],
        "test": _summary(tested),
    }


def by_alpha(trials: Sequence[Trial], best: Trial) -> list[Trial]:
    """The winner's candidate at several α on equal prompts, in their order.

    Those of the highest rung that has several, or the winner alone.
    """
    own = [t for t in trials if t.candidate == best.candidate and not t.error]
    for rung in range(best.rung, -1, -1):
        found = sorted((t for t in own if t.rung == rung), key=lambda t: t.alpha)
        if len(found) > 1:
            return found
    return [best]


def recorded(trials: Sequence[Trial], *, prompted: bool) -> list[RecordedPoint]:
    """Trials of one rung as a cartridge's evaluation has them.

    Args:
        trials: One candidate at several α.
        prompted: As `frontier` has it.
    """
    points = [Point("", "cartridge", trial.alpha, _ranked(trial)) for trial in trials]
    front = frontier(points, prompted=prompted)
    return [
        RecordedPoint(trial.alpha, point in front, trial.figures)
        for trial, point in zip(trials, points, strict=True)
    ]


def _ranked(trial: Trial) -> Scores:
    """What points are ranked by. A table of trials keeps values alone, so intervals are points."""

    def known(name: str) -> Estimate | None:
        value = trial.figures.get(name)
        return None if value is None else Estimate(value, value, value, trial.prompts)

    return Scores(
        behaviour=known("behaviour"),
        nll=known("nll"),
        distinct=None,
        repetition=None,
        kl=known("kl"),
        kl_prompted=known("kl_prompted"),
    )


def _summary(trial: Trial) -> dict[str, Any]:
    return {
        "settings": {**trial.candidate.changes, "alpha": trial.alpha},
        "prompts": trial.prompts,
        "shortfall": round(trial.shortfall, 6),
        "cost": round(trial.cost, 6),
        **trial.figures,
    }
