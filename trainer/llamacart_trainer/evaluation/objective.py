"""Which of two points is better, and which points none beats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llamacart_trainer.evaluation.bootstrap import Estimate
    from llamacart_trainer.evaluation.results import Point, Scores


@dataclass(frozen=True)
class Objective:
    """Behaviour first, then fluency and locality.

    A point is sound where behaviour ≥ `target` and distinct-2 ≥ `distinct` (loops have a low NLL:
    without that guard the collapsed text would win). Among sound points the least
    NLL + `kl_weight` × KL wins. Where none is sound, the least shortfall of both together does.

    Attributes:
        target: Least behaviour, 0 to 1.
        kl_weight: Nats of NLL that a nat of KL is worth.
        distinct: Least distinct-2.
    """

    target: float = 0.95
    kl_weight: float = 1.0
    distinct: float = 0.6

    def __str__(self) -> str:
        return (
            f"behaviour ≥ {self.target:g} and distinct-2 ≥ {self.distinct:g}, "
            f"then least NLL + {self.kl_weight:g} × KL"
        )

    def shortfall(self, scores: Scores) -> float:
        """How far a point is from sound; 0 where it is."""
        missing = 0.0
        if scores.behaviour is not None:
            missing += max(0.0, self.target - scores.behaviour.value)
        if scores.distinct is not None:
            missing += max(0.0, self.distinct - scores.distinct.value)
        return missing

    def cost(self, scores: Scores) -> float:
        """NLL + weight × KL, nats; what was not measured costs nothing."""
        return _value(scores.nll) + self.kl_weight * _value(scores.kl)

    def key(self, scores: Scores) -> tuple[float, float]:
        """Sorts better points first."""
        return round(self.shortfall(scores), 9), self.cost(scores)

    def best(self, points: Iterable[Point]) -> Point:
        """The best of one or more points; of equals the first."""
        return min(points, key=lambda point: self.key(point.scores))


def best_alphas(points: Sequence[Point], objective: Objective) -> dict[str, float]:
    """For each label the α that the objective prefers."""
    labels = dict.fromkeys(point.label for point in points)
    return {label: objective.best(p for p in points if p.label == label).alpha for label in labels}


def frontier(points: Sequence[Point]) -> list[Point]:
    """Points that no other dominates: behaviour ↑, NLL ↓, KL ↓.

    One point dominates another where it is at least as good in all three and better in one. The
    ceiling is no steering and takes no part.
    """
    steered = [point for point in points if point.kind != "ceiling"]
    return [
        point
        for point in steered
        if not any(_dominates(other.scores, point.scores) for other in steered)
    ]


def _dominates(a: Scores, b: Scores) -> bool:
    left, right = _goods(a), _goods(b)
    return all(x >= y for x, y in zip(left, right, strict=True)) and left != right


def _goods(scores: Scores) -> tuple[float, float, float]:
    return _value(scores.behaviour), -_value(scores.nll), -_value(scores.kl)


def _value(estimate: Estimate | None) -> float:
    return 0.0 if estimate is None else estimate.value
