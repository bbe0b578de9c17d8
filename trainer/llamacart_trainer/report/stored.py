"""What a cartridge keeps of its evaluation: a JSON object; FORMAT.md lists its keys."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llamacart_trainer.evaluation.tables import COLUMNS, figure
from llamacart_trainer.fitting.training import creation_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamacart.cartridge import Cartridge
    from llamacart_trainer.evaluation.results import Evaluation, Point, Scores

EVALUATION = "evaluation"
"""The key in the diagnostics."""
_DIGITS = 6


def with_evaluation(cartridge: Cartridge, evaluation: Evaluation, label: str) -> dict[str, Any]:
    """The diagnostics of a cartridge with its part of an evaluation among them.

    Args:
        cartridge: The cartridge; an earlier evaluation in it is replaced.
        evaluation: A comparison that it took part in.
        label: Its name there.
    """
    return {**cartridge.metadata.diagnostics, EVALUATION: stored(evaluation, label)}


def stored(evaluation: Evaluation, label: str) -> dict[str, Any]:
    """The part of an evaluation that is about one contender, and the unsteered model beside it.

    Its time is `creation_time`, as a cartridge's: the clock would change the file's bytes.

    Args:
        evaluation: The comparison.
        label: Name of the contender.
    """
    (tested,) = (point for point in evaluation.tests if point.label == label)
    base = next((point for point in evaluation.tests if point.kind == "unsteered"), None)
    points = sorted((p for p in evaluation.points if p.label == label), key=lambda p: p.alpha)
    return {
        "recipe": evaluation.recipe,
        "behaviour": evaluation.behaviour,
        "objective": evaluation.objective,
        "tested_on": str(evaluation.tested_on),
        "chosen_on": None if evaluation.chosen_on is None else str(evaluation.chosen_on),
        "alpha": tested.alpha,
        "test": _estimates(tested.scores),
        "unsteered": {} if base is None else _estimates(base.scores),
        "points": [_point(point, evaluation) for point in points],
        "created": creation_time(),
        "tool_version": evaluation.tool_version,
    }


def _point(point: Point, evaluation: Evaluation) -> dict[str, Any]:
    return {
        "alpha": point.alpha,
        "frontier": (point.label, point.alpha) in evaluation.frontier,
        "figures": {name: values[0] for name, values in _estimates(point.scores).items()},
    }


def _estimates(scores: Scores) -> Mapping[str, list[float]]:
    """Each figure that was measured, with its interval. JSON knows no infinity."""
    found = ((name, figure(scores, name)) for name in COLUMNS)
    values = {name: [e.value, e.low, e.high] for name, e in found if e is not None}
    return {
        name: [round(value, _DIGITS) for value in three]
        for name, three in values.items()
        if all(map(math.isfinite, three))
    }
