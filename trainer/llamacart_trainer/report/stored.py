"""What a cartridge keeps of its evaluation: a JSON object; FORMAT.md lists its keys."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llamacart import __version__
from llamacart_trainer.evaluation.tables import COLUMNS, figure
from llamacart_trainer.fitting.training import creation_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llamacart.cartridge import Cartridge
    from llamacart_trainer.evaluation.results import Evaluation, Measured, Scores

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

    Args:
        evaluation: The comparison.
        label: Name of the contender.
    """
    (tested,) = (point for point in evaluation.tests if point.label == label)
    base = next((point for point in evaluation.tests if point.kind == "unsteered"), None)
    points = sorted((p for p in evaluation.points if p.label == label), key=lambda p: p.alpha)
    return Record(
        recipe=evaluation.recipe,
        behaviour=evaluation.behaviour,
        objective=evaluation.objective,
        tested_on=evaluation.tested_on,
        chosen_on=evaluation.chosen_on,
        alpha=tested.alpha,
        test=tested.scores,
        unsteered=None if base is None else base.scores,
        points=[
            RecordedPoint(
                point.alpha,
                (point.label, point.alpha) in evaluation.frontier,
                {name: values[0] for name, values in _estimates(point.scores).items()},
            )
            for point in points
        ],
    ).as_json()


@dataclass(frozen=True)
class RecordedPoint:
    """A cartridge at one strength, on what α was chosen on.

    Attributes:
        alpha: α.
        frontier: Whether no other point is better in everything.
        figures: Field of `Scores` → value.
    """

    alpha: float
    frontier: bool
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Record:
    """What is kept; see FORMAT.md.

    Attributes:
        recipe: Name.
        behaviour: What the behaviour score is, for people.
        objective: How α was chosen, for people.
        tested_on: What `test` and `unsteered` were taken over.
        chosen_on: What `points` were taken over; None where there was one α.
        alpha: α of the test.
        test: The cartridge's figures.
        unsteered: The model's without it; None where they were not measured.
        points: By α.
    """

    recipe: str
    behaviour: str
    objective: str
    tested_on: Measured
    chosen_on: Measured | None
    alpha: float
    test: Scores
    unsteered: Scores | None
    points: Sequence[RecordedPoint]

    def as_json(self) -> dict[str, Any]:
        """As it stands in a file.

        Its time is `creation_time`, as a cartridge's: the clock would change the file's bytes.
        """
        return {
            "recipe": self.recipe,
            "behaviour": self.behaviour,
            "objective": self.objective,
            "tested_on": str(self.tested_on),
            "chosen_on": None if self.chosen_on is None else str(self.chosen_on),
            "alpha": self.alpha,
            "test": _estimates(self.test),
            "unsteered": {} if self.unsteered is None else _estimates(self.unsteered),
            "points": [asdict(point) for point in self.points],
            "created": creation_time(),
            "tool_version": __version__,
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
