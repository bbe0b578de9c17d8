"""Confidence intervals over prompts: Wilson's for shares, by resampling for other figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.stats import binomtest

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
LEVEL = 0.95

Statistic = Literal["mean", "median", "share"]
"""A share is the mean of outcomes that are 0 or 1."""


@dataclass(frozen=True)
class Estimate:
    """A figure over prompts with its 95 % confidence interval.

    Attributes:
        value: The statistic of the sample.
        low: Lower end of the interval.
        high: Upper end.
        n: Prompts (or texts) it was taken over.
        values: Figure of each, in the order of the prompts, for `difference`; empty where none
            were kept.
        weights: Weight of each; empty where all count alike.
        statistic: Of the values.
    """

    value: float
    low: float
    high: float
    n: int
    values: tuple[float, ...] = field(default=(), repr=False)
    weights: tuple[float, ...] = field(default=(), repr=False)
    statistic: Statistic = "mean"

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
    statistic: Statistic = "mean",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """A mean or median with its interval by the percentile bootstrap, or a share with Wilson's.

    Prompts are drawn with replacement. Where all of 20 outcomes are 1 every resample is too: the
    bootstrap of a share has no width where it needs it most, and Wilson's interval has.

    Args:
        values: One number a prompt, [N]; N ≥ 1, finite.
        weights: Weight of each, e.g. its tokens; a resample's mean is weighted by those drawn.
        statistic: `mean`, `median` or `share`; the last two know no weights.
        seed: Of the resampling; equal seeds and N draw the same prompts, so that two cartridges
            are compared on equal resamples.
        resamples: Number of resamples.

    Source: Efron and Tibshirani (1993), chapter 13.

    Raises:
        ValueError: There is no value, one is not finite, or one of a share is neither 0 nor 1.
    """
    x = np.asarray(values, np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    if x.ndim != 1 or len(x) == 0 or x.shape != w.shape or not np.isfinite(x).all():
        raise ValueError(f"values of shape {x.shape}; at least one finite number is needed")
    if not w.sum() > 0:
        raise ValueError("the weights sum to 0")
    if statistic == "share":
        if weights is not None or not is_binary(x):
            raise ValueError("a share needs outcomes of 0 and 1, without weights")
        low, high = wilson(int(x.sum()), len(x))
    else:
        samples = _resampled(x, w, statistic, seed, resamples)
        low, high = _interval(samples[np.isfinite(samples)])
    return Estimate(
        value=_centre(x, w, statistic),
        low=low,
        high=high,
        n=int((w > 0).sum()),
        values=tuple(x.tolist()),
        weights=() if weights is None else tuple(w.tolist()),
        statistic=statistic,
    )


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share of `n` outcomes.

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    found = binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def is_binary(values: ArrayLike) -> bool:
    """Whether every value is 0 or 1."""
    return bool(np.isin(np.asarray(values), (0.0, 1.0)).all())


def difference(
    one: Estimate, other: Estimate, *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate | None:
    """One figure minus another of the same prompts, with the interval of the paired bootstrap.

    Each resample draws prompts and takes both figures on them, so that what makes a prompt hard
    for both cancels out: an interval without 0 tells two contenders apart where their own
    intervals overlap.

    Args:
        one: A figure with its values.
        other: The same figure of another contender on the same prompts.
        seed: Of the resampling.
        resamples: Number of resamples.

    Returns:
        The difference, or None where the two were not taken over the same number of prompts or
        values were not kept.

    Source: Efron and Tibshirani (1993), chapter 8; for two systems on one test set, Koehn (2004),
    "Statistical significance tests for machine translation evaluation".
    """
    if not one.values or len(one.values) != len(other.values):
        return None
    if (one.statistic == "median") != (other.statistic == "median"):
        return None
    sides = [
        (np.array(side.values), np.array(side.weights or np.ones(len(side.values))))
        for side in (one, other)
    ]
    drawn = [_resampled(x, w, one.statistic, seed, resamples) for x, w in sides]
    samples = drawn[0] - drawn[1]
    low, high = _interval(samples[np.isfinite(samples)])
    return Estimate(one.value - other.value, low, high, len(one.values))


def share_removed(
    one: Estimate, before: Estimate, *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate | None:
    """1 − one / before: the share of a distance that is gone, with the paired bootstrap.

    Each resample draws prompts and takes both means on them.

    Args:
        one: What is left of the distance, with its values.
        before: The distance of the same prompts.
        seed: Of the resampling.
        resamples: Number of resamples.

    Returns:
        The share without values of its own, since no prompt has one alone; None where there was
        no distance, or the two were not taken over the same prompts.
    """
    if not one.values or len(one.values) != len(before.values) or not before.value > 0:
        return None
    left, whole = (
        _resampled(
            np.array(side.values),
            np.array(side.weights or np.ones(len(side.values))),
            "mean",
            seed,
            resamples,
        )
        for side in (one, before)
    )
    shares = np.full(resamples, np.nan)
    np.divide(left, whole, out=shares, where=whole > 0)
    low, high = _interval(1.0 - shares[np.isfinite(shares)])
    return Estimate(1.0 - one.value / before.value, low, high, one.n)


def _centre(x: NDArray[np.float64], w: NDArray[np.float64], statistic: Statistic) -> float:
    return float(np.median(x)) if statistic == "median" else float(np.average(x, weights=w))


def _resampled(
    x: NDArray[np.float64],
    w: NDArray[np.float64],
    statistic: Statistic,
    seed: int,
    resamples: int,
) -> NDArray[np.float64]:
    """The statistic of each resample; NaN where all that was drawn weighs nothing."""
    drawn = _drawn(len(x), seed, resamples)
    if statistic == "median":
        medians: NDArray[np.float64] = np.median(x[drawn], axis=1)
        return medians
    mass = w[drawn].sum(axis=1)
    sums = (x[drawn] * w[drawn]).sum(axis=1)
    means = np.full(resamples, np.nan)
    np.divide(sums, mass, out=means, where=mass > 0)
    return means


@lru_cache(maxsize=8)
def _drawn(n: int, seed: int, resamples: int) -> NDArray[np.int64]:
    """Prompts of each resample, [R, N]: the same for every figure over N prompts."""
    return np.random.default_rng(seed).integers(0, n, (resamples, n))


def _interval(samples: NDArray[np.float64]) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)
