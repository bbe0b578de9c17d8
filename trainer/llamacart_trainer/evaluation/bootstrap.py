"""Confidence intervals by resampling prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure over prompts with its 95 % confidence interval.

    Attributes:
        value: The statistic of the sample.
        low: Lower end of the interval.
        high: Upper end.
        n: Prompts (or texts) it was taken over.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def short(self) -> str:
        """The value with the ends of its interval, two digits."""
        return f"{self.value:.2f} [{self.low:.2f}–{self.high:.2f}]"


def estimate(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    statistic: Literal["mean", "median"] = "mean",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Percentile bootstrap of a mean or median; prompts are drawn with replacement.

    Args:
        values: One number a prompt, [N]; N ≥ 1, finite.
        weights: Weight of each, e.g. its tokens; a resample's mean is weighted by those drawn.
        statistic: `mean` or `median` (which knows no weights).
        seed: Of the resampling; equal seeds and N draw the same prompts, so that two cartridges
            are compared on equal resamples.
        resamples: Number of resamples.

    Source: Efron and Tibshirani (1993), chapter 13.
    """
    x = np.asarray(values, np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    if x.ndim != 1 or len(x) == 0 or x.shape != w.shape or not np.isfinite(x).all():
        raise ValueError(f"values of shape {x.shape}; at least one finite number is needed")
    if not w.sum() > 0:
        raise ValueError("the weights sum to 0")
    drawn = np.random.default_rng(seed).integers(0, len(x), (resamples, len(x)))
    if statistic == "median":
        centre, samples = float(np.median(x)), np.median(x[drawn], axis=1)
    else:
        centre = float(np.average(x, weights=w))
        mass = w[drawn].sum(axis=1)
        drawn, mass = drawn[mass > 0], mass[mass > 0]
        samples = (x[drawn] * w[drawn]).sum(axis=1) / mass
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Estimate(centre, float(low), float(high), len(x))
