"""What figures say against a bar, and in words: yes, no, or neither."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llamacart_trainer.evaluation.bootstrap import difference

if TYPE_CHECKING:
    from llamacart_trainer.evaluation.bootstrap import Estimate
    from llamacart_trainer.evaluation.significance import Contrast
    from llamacart_trainer.reproduction.trials import PaperTrial

READABLE = 0.8
"""Least distinct-2, as a share of the ceiling's (or the unsteered model's), of text without
loops."""


def reads(trial: PaperTrial, reference: PaperTrial) -> bool | None:
    """Whether its text has no more loops than the reference's, within `READABLE`."""
    own, other = trial.scores.distinct, reference.scores.distinct
    if own is None or other is None:
        return None
    bar = replace(
        other,
        value=READABLE * other.value,
        values=tuple(READABLE * value for value in other.values),
    )
    return reaches(difference(own, bar), 0.0)


def loops(trial: PaperTrial, reference: PaperTrial) -> str:
    """The figures that `reads` goes by."""
    bar = READABLE * value(reference.scores.distinct)
    return (
        f"distinct-2 {short(trial.scores.distinct)}, {reference.name} "
        f"{value(reference.scores.distinct):.2f}; bar {bar:.2f}"
    )


def reaches(found: Estimate | None, bar: float) -> bool | None:
    """True where the interval is at or above the bar, False where it is below, else None."""
    if found is None or found.low < bar <= found.high:
        return None
    return found.low >= bar


def stays(found: Estimate | None, bar: float) -> bool | None:
    """True where the interval is at or below the bar, False where it is above, else None."""
    if found is None or found.low <= bar < found.high:
        return None
    return found.high <= bar


def every(*parts: bool | None) -> bool | None:
    """False where a part is, else None where a part is, else True."""
    if any(part is False for part in parts):
        return False
    return None if any(part is None for part in parts) else True


def told(apart: Contrast | None) -> str:
    """A difference with its interval and corrected p."""
    if apart is None:
        return "not measured"
    return f"{apart.value:+.2f} [{apart.low:+.2f}, {apart.high:+.2f}], p {apart.adjusted:.3f}"


def short(estimate: Estimate | None, digits: int = 2) -> str:
    """Value and interval."""
    if estimate is None:
        return "–"
    low, high = f"{estimate.low:.{digits}f}", f"{estimate.high:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{low}, {high}]"


def value(estimate: Estimate | None) -> float:
    """The figure; NaN where there is none."""
    return float("nan") if estimate is None else estimate.value
