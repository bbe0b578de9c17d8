"""What a cartridge keeps of the search that chose its settings: a JSON object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamacart_trainer.tuning.trials import scored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart_trainer.evaluation.objective import Objective
    from llamacart_trainer.evaluation.plan import EvaluationPlan
    from llamacart_trainer.evaluation.results import Scores
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


def _summary(trial: Trial) -> dict[str, Any]:
    return {
        "settings": {**trial.candidate.changes, "alpha": trial.alpha},
        "prompts": trial.prompts,
        "shortfall": round(trial.shortfall, 6),
        "cost": round(trial.cost, 6),
        **trial.figures,
    }
