"""Which of two points is better, and which points none beats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llamacart_trainer.evaluation.bootstrap import Estimate
    from llamacart_trainer.evaluation.results import Point, Scores


@dataclass(frozen=True)
class Objective:
    """Behaviour first, then fluency and locality.

    A point is sound where behaviour ≥ `target`, distinct-2 ≥ `distinct` and the share of texts
    that were written at all ≥ `written` (loops have a low NLL and silence has none: without these
    guards the collapsed text would win). Among sound points the least NLL + `kl_weight` × KL wins.
    Where none is sound, the least shortfall of all together does. What was demanded and not
    measured falls short by the whole demand, and a cost that lacks a part loses to one that has
    it: nothing is better for being unknown.

    Attributes:
        target: Least behaviour, 0 to 1.
        kl_weight: Nats of NLL that a nat of KL is worth.
        distinct: Least distinct-2.
        written: Least share of texts that are long enough to be judged.
    """

    target: float = 0.95
    kl_weight: float = 1.0
    distinct: float = 0.6
    written: float = 0.9

    def __str__(self) -> str:
        demands = {
            "behaviour": self.target,
            "distinct-2": self.distinct,
            "texts written": self.written,
        }
        asked = " and ".join(f"{name} ≥ {least:g}" for name, least in demands.items() if least)
        return f"{asked}{', then ' if asked else ''}least NLL + {self.kl_weight:g} × KL"

    def of(self, *, behaviour: bool, texts: bool) -> Objective:
        """The same without demands on what a plan does not measure."""
        return Objective(
            self.target if behaviour else 0.0,
            self.kl_weight,
            self.distinct if texts else 0.0,
            self.written if texts else 0.0,
        )

    def shortfall(self, scores: Scores) -> float:
        """How far a point is from sound; 0 where it is."""
        demands = (
            (self.target, scores.behaviour),
            (self.distinct, scores.distinct),
            (self.written, scores.written),
        )
        return sum(
            max(0.0, least - (0.0 if found is None else found.value)) for least, found in demands
        )

    def unknown(self, scores: Scores) -> int:
        """How many parts of the cost were not measured."""
        return (scores.nll is None) + (scores.kl is None)

    def cost(self, scores: Scores) -> float:
        """NLL + weight × KL, nats, of what was measured; compare it where `unknown` is equal."""
        nll, kl = (0.0 if part is None else part.value for part in (scores.nll, scores.kl))
        return nll + self.kl_weight * kl

    def key(self, scores: Scores) -> tuple[float, int, float]:
        """Sorts better points first."""
        return round(self.shortfall(scores), 9), self.unknown(scores), self.cost(scores)

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
    """Each the larger the better; what was not measured is worse than any figure."""
    return _good(scores.behaviour), _good(scores.nll, -1.0), _good(scores.kl, -1.0)


def _good(estimate: Estimate | None, sign: float = 1.0) -> float:
    return -math.inf if estimate is None else sign * estimate.value
