"""Which of two points is better, and which points none beats."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llamacart_trainer.evaluation.results import PROMPTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llamacart_trainer.evaluation.bootstrap import Estimate
    from llamacart_trainer.evaluation.results import Point, Scores


VARIETY = 0.6
"""Share of a prompt's own variety (distinct-2, and what is no repetition) below which texts count
as loops."""


@dataclass(frozen=True)
class Objective:
    """Behaviour first, then fluency and locality.

    A point is sound where behaviour ≥ `target`, distinct-2 ≥ `distinct`, repetition ≤ `repetition`
    and the share of texts that were written at all ≥ `written` (loops have a low NLL and silence
    has none: without these guards the collapsed text would win). Among sound points the least
    NLL + `kl_weight` × KL wins, or KL to the prompted model in place of NLL. Where none is sound,
    the least shortfall of all together does. What was demanded and not measured falls short by the
    whole demand, and a cost that lacks a part loses to one that has it: nothing is better for being
    unknown.

    Attributes:
        target: Least behaviour, 0 to 1.
        kl_weight: Nats of NLL that a nat of KL is worth.
        distinct: Least distinct-2.
        written: Least share of texts that are long enough to be judged.
        repetition: Most repetition.
        prompted: Whether KL to the prompted model is what counts in place of NLL.
    """

    target: float = 0.95
    kl_weight: float = 1.0
    distinct: float = 0.6
    written: float = 0.9
    repetition: float = 1.0
    prompted: bool = False

    def __str__(self) -> str:
        demands = {
            "behaviour": self.target,
            "distinct-2": self.distinct,
            "texts written": self.written,
        }
        asked = [f"{name} ≥ {least:.3g}" for name, least in demands.items() if least]
        if self.repetition < 1:
            asked.append(f"repetition ≤ {self.repetition:.3g}")
        cost = "KL to the prompted model" if self.prompted else "NLL"
        least = f"least {cost} + {self.kl_weight:g} × KL"
        return f"{' and '.join(asked)}, then {least}" if asked else least

    def of(self, *, behaviour: bool, texts: bool, prompted: bool = False) -> Objective:
        """The same without demands on what a plan does not measure."""
        return replace(
            self,
            target=self.target if behaviour else 0.0,
            distinct=self.distinct if texts else 0.0,
            written=self.written if texts else 0.0,
            repetition=self.repetition if texts else 1.0,
            prompted=prompted,
        )

    def beside(self, points: Iterable[Point]) -> Objective:
        """The same, not content with less than the prompts among the points have.

        The prompt with the most behaviour is the standard; where a recipe distils one, it is that
        one. Behaviour may not be below its own. Where it does what is wanted, its own texts say
        what a loop is: they hold more than 1 / `VARIETY` as much that is new.
        """
        prompts = [point for point in points if point.kind in PROMPTS]
        if not prompts:
            return self
        standard = max(
            prompts, key=lambda p: (p.kind == "prompted", good(p.scores.behaviour))
        ).scores
        behaviour, distinct = standard.behaviour, standard.distinct
        repetition, written = standard.repetition, standard.written
        target = self.target
        if target and behaviour is not None:
            target = max(target, behaviour.value)
        if not self.prompted and (behaviour is None or behaviour.value < self.target):
            return replace(self, target=target)
        return replace(
            self,
            target=target,
            distinct=VARIETY * distinct.value if self.distinct and distinct else self.distinct,
            repetition=1.0 - VARIETY * (1.0 - repetition.value)
            if self.distinct and repetition
            else self.repetition,
            written=min(self.written, written.value) if written else self.written,
        )

    def shortfall(self, scores: Scores) -> float:
        """How far a point is from sound; 0 where it is."""
        repetition = scores.repetition
        demands = (
            (self.target, _value(scores.behaviour)),
            (self.distinct, _value(scores.distinct)),
            (self.written, _value(scores.written)),
            (1.0 - self.repetition, 0.0 if repetition is None else 1.0 - repetition.value),
        )
        return sum(max(0.0, least - found) for least, found in demands)

    def _parts(self, scores: Scores) -> tuple[Estimate | None, Estimate | None]:
        return scores.kl_prompted if self.prompted else scores.nll, scores.kl

    def unknown(self, scores: Scores) -> int:
        """How many parts of the cost were not measured."""
        return sum(part is None for part in self._parts(scores))

    def cost(self, scores: Scores) -> float:
        """NLL (or KL to the prompted model) + weight × KL, nats, of what was measured.

        Compare it where `unknown` is equal.
        """
        first, kl = map(_value, self._parts(scores))
        return first + self.kl_weight * kl

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


def frontier(points: Sequence[Point], *, prompted: bool = False) -> list[Point]:
    """Points that no other dominates: behaviour ↑, NLL (or KL to the prompted model) ↓, KL ↓.

    One point dominates another where it is at least as good in all three and better in one. The
    ceiling and prompts are no steering and take no part: no neutral text stands behind them.
    """
    steered = [point for point in points if point.kind not in ("ceiling", *PROMPTS)]
    return [
        point
        for point in steered
        if not any(_dominates(other.scores, point.scores, prompted) for other in steered)
    ]


def _dominates(a: Scores, b: Scores, prompted: bool) -> bool:
    left, right = _goods(a, prompted), _goods(b, prompted)
    return all(x >= y for x, y in zip(left, right, strict=True)) and left != right


def _goods(scores: Scores, prompted: bool) -> tuple[float, float, float]:
    """Each the larger the better; what was not measured is worse than any figure."""
    second = scores.kl_prompted if prompted else scores.nll
    return good(scores.behaviour), good(second, -1.0), good(scores.kl, -1.0)


def good(estimate: Estimate | None, sign: float = 1.0) -> float:
    """A figure to rank by, the larger the better; one that was not measured is the least.

    Args:
        estimate: The figure.
        sign: -1 where less is better.
    """
    return -math.inf if estimate is None else sign * estimate.value


def _value(estimate: Estimate | None) -> float:
    return 0.0 if estimate is None else estimate.value
