"""Which differences between contenders on the same prompts are more than chance.

A share (each prompt 0 or 1) is compared by McNemar's exact test, with Newcombe's interval; any
other figure by swapping the two contenders' figures prompt by prompt, with the interval of the
paired bootstrap. Many comparisons are corrected together by Holm's method, so that the chance of
even one false verdict among them is at most `LEVEL`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from scipy.stats import binomtest

from llamacart_trainer.evaluation.bootstrap import difference, wilson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llamacart_trainer.evaluation.bootstrap import Estimate, Statistic

    Floats = NDArray[np.float64]

Name = TypeVar("Name")

LEVEL = 0.05
"""Most that the chance of a false verdict in a family of comparisons may be."""

SWAPS = 4999
"""Random swaps of a test; where there are no more in all, each is taken once."""


@dataclass(frozen=True)
class Contrast:
    """One contender's figure minus another's on the same prompts.

    Attributes:
        value: The difference.
        low: Lower end of its own 95 % interval, not corrected for other comparisons.
        high: Upper end.
        n: Prompts, or texts, that both were measured on.
        p: Two-sided p of the paired test.
        adjusted: p after Holm's correction over the family; `p` until then.
    """

    value: float
    low: float
    high: float
    n: int
    p: float
    adjusted: float

    @property
    def sign(self) -> int:
        """1 or -1 where the two are told apart, 0 where they are not."""
        return int(np.sign(self.value)) if self.adjusted <= LEVEL else 0


def contrast(one: Estimate, other: Estimate, *, seed: int = 0) -> Contrast | None:
    """The difference of two figures with its interval and the p of the paired test.

    Args:
        one: A figure with its values.
        other: The same figure of another contender on the same prompts.
        seed: Of the resampling and of the swaps.

    Returns:
        None where the two were not taken over the same number of prompts or values were not kept.
    """
    apart = difference(one, other, seed=seed)
    if apart is None:
        return None
    x, y = np.array(one.values), np.array(other.values)
    if one.statistic == other.statistic == "share":
        low, high = newcombe(x, y)
        p = mcnemar(x, y)
        return Contrast(apart.value, low, high, apart.n, p, p)
    w, v = (np.array(side.weights or np.ones(len(x))) for side in (one, other))
    p = swap_test(x, y, w, v, one.statistic, seed=seed)
    return Contrast(apart.value, apart.low, apart.high, apart.n, p, p)


def corrected(family: Mapping[Name, Contrast]) -> dict[Name, Contrast]:
    """The same comparisons with `adjusted` by Holm's method over all of them."""
    found = holm([each.p for each in family.values()])
    return {
        name: replace(each, adjusted=adjusted)
        for (name, each), adjusted in zip(family.items(), found, strict=True)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted so that the family-wise error is kept, whatever depends on what.

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(value) for value in adjusted]


def mcnemar(x: Floats, y: Floats) -> float:
    """Exact two-sided p of equal shares, from the prompts [N] on which 0 and 1 differ.

    Source: McNemar (1947); exact as a sign test of the discordant pairs.
    """
    ones, others = int((x > y).sum()), int((x < y).sum())
    if ones + others == 0:
        return 1.0
    return float(binomtest(ones, ones + others).pvalue)


def newcombe(x: Floats, y: Floats) -> tuple[float, float]:
    """95 % interval of the difference of two paired shares; it has width at 0 and at 1 too.

    Source: Newcombe (1998), "Improved confidence intervals for the difference between binomial
    proportions based on paired data", method 10.
    """
    n = len(x)
    both, one, other = (int(k.sum()) for k in ((x * y), (x > y), (x < y)))
    neither = n - both - one - other
    p, q = (both + one) / n, (both + other) / n
    (p_low, p_high), (q_low, q_high) = wilson(both + one, n), wilson(both + other, n)
    spread = (both + one) * (other + neither) * (both + other) * (one + neither)
    lean = float(both * neither - one * other)
    lean = max(0.0, lean - n / 2) if lean > 0 else lean
    phi = lean / np.sqrt(spread) if spread else 0.0

    def reach(a: float, b: float) -> float:
        return float(np.sqrt(max(0.0, a**2 - 2 * phi * a * b + b**2)))

    return (
        p - q - reach(p - p_low, q_high - q),
        p - q + reach(p_high - p, q - q_low),
    )


def swap_test(
    x: Floats, y: Floats, w: Floats, v: Floats, statistic: Statistic = "mean", *, seed: int = 0
) -> float:
    """Two-sided p of no difference: under it each prompt's two figures could change places.

    Args:
        x: One contender's figures, [N].
        y: The other's on the same prompts, [N].
        w: Weights of `x`, [N]; they change places with their figures.
        v: Weights of `y`, [N].
        statistic: Whose difference is looked at; a median knows no weights.
        seed: Of the swaps, where not all are taken.

    Source: Fisher (1935); Good (2005), "Permutation, Parametric and Bootstrap Tests", chapter 3.
    """
    swapped = _swaps(len(x), seed)
    if statistic == "median":
        ones = np.median(np.where(swapped, y, x), axis=1)
        others = np.median(np.where(swapped, x, y), axis=1)
    else:
        moved, mass = swapped @ (y * v - x * w), swapped @ (v - w)
        with np.errstate(invalid="ignore", divide="ignore"):
            ones = ((x * w).sum() + moved) / (w.sum() + mass)
            others = ((y * v).sum() - moved) / (v.sum() - mass)
    apart = np.abs(ones - others)
    # A swap that leaves one side without weight says nothing, so it counts against a difference.
    extreme = ~(apart < apart[0] * (1 - 1e-9) - 1e-12)
    # The first swaps nothing: it is what was seen, and counts among the possible ones.
    return float(extreme.mean())


@lru_cache(maxsize=8)
def _swaps(n: int, seed: int) -> Floats:
    """Which of N prompts are swapped, [R, N] of 0 and 1; the first row swaps none."""
    if 2**n <= SWAPS + 1:
        return ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.float64)
    drawn = np.random.default_rng(seed).integers(0, 2, (SWAPS + 1, n)).astype(np.float64)
    drawn[0] = 0.0
    return drawn
