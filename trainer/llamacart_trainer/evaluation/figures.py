"""Figures over prompts or texts, each None where it was not or could not be measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llamacart_trainer.evaluation.bootstrap import Estimate, estimate, is_binary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart_trainer.evaluation.bootstrap import Statistic

    Values = Sequence[float] | NDArray[np.float64]


def figure_of(
    values: Values,
    statistic: Statistic = "mean",
    *,
    weights: Values | None = None,
    seed: int = 0,
) -> Estimate | None:
    """A statistic with its interval; None without values, or where one is not finite.

    Args:
        values: One number a prompt, [N].
        statistic: See `estimate`.
        weights: Weight of each; where they sum to 0 there is nothing to measure.
        seed: Of the bootstrap.
    """
    if len(values) == 0 or not np.isfinite(values).all():
        return None
    if weights is not None and not np.sum(weights) > 0:
        return None
    return estimate(values, weights, statistic=statistic, seed=seed)


def share_of(values: Values, *, seed: int = 0) -> Estimate | None:
    """Of outcomes that are 0 or 1; the mean where a user's own scorer gives other numbers."""
    return figure_of(values, "share" if is_binary(values) else "mean", seed=seed)


def per_token(values: Sequence[NDArray[np.float64]], *, seed: int = 0) -> Estimate | None:
    """Mean over all tokens, with an interval over the texts they come from.

    None where there is no token, or where the steered model gave no finite number.

    Args:
        values: For each text an array [tokens of the text].
        seed: Of the bootstrap.
    """
    if not any(map(len, values)) or not all(np.isfinite(v).all() for v in values):
        return None
    means = [v.mean() if len(v) else 0.0 for v in values]
    return estimate(means, [len(v) for v in values], seed=seed)


def exponential(value: Estimate | None) -> Estimate | None:
    """Exp of a figure and of its interval, without values to compare."""
    if value is None:
        return None
    return Estimate(
        float(np.exp(value.value)), float(np.exp(value.low)), float(np.exp(value.high)), value.n
    )
