"""Closed forms of weight editors: MEMIT's update, AlphaEdit's, and the way through a post-norm.

Axes: d inputs of a down projection, m outputs, n facts. Keys are its inputs at the last token of a
subject, residuals the steps that its outputs are to make there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import brentq

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

HALF = 2
"""Bytes of a number at 16 bits, as what is changed would be kept."""


def memit_update(keys: Array, residuals: Array, moment: Array, weight: float) -> Array:
    """R Kᵀ (w C + K Kᵀ)⁻¹ [m, d]: the update that maps keys to residuals and leaves the rest.

    Args:
        keys: K [d, n].
        residuals: R [m, n].
        moment: C = E[k kᵀ] [d, d] of keys of other texts.
        weight: w, how much the other texts count.

    Source: Meng et al. (2023), "Mass-editing memory in a transformer", equation 14.
    """
    held = weight * moment + keys @ keys.T
    return cho_solve(cho_factor(_lifted(held)), keys @ residuals.T).T


def null_projection(moment: Array, share: float) -> Array:
    """P [d, d]: the projection on the directions in which other texts' keys hardly reach.

    Args:
        moment: C [d, d].
        share: Of the d directions, those that are kept: the ones with the smallest eigenvalues.

    Source: Fang et al. (2025), "AlphaEdit: null-space constrained knowledge editing", section 3.2,
    which cuts at an eigenvalue of 0.02; a share does not depend on the scale of activations.
    """
    _, vectors = np.linalg.eigh(moment)
    kept = vectors[:, : round(share * len(moment))]
    return kept @ kept.T


def alphaedit_update(keys: Array, residuals: Array, projection: Array, ridge: float) -> Array:
    """R Kᵀ P (K Kᵀ P + r I)⁻¹ [m, d], an update that is zero outside of P.

    Args:
        keys: K [d, n].
        residuals: R [m, n].
        projection: P [d, d].
        ridge: r as a share of the mean of ‖P k‖²; the paper's is 10 for its models' activations.

    Source: Fang et al. (2025), equation 12, without earlier edits.
    """
    inside = projection @ keys
    # By the push-through identity: only an n × n system is solved.
    gram = inside.T @ inside
    held = gram + ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    return residuals @ np.linalg.solve(held, inside.T)


def through_norm(wanted: Array, gain: Array) -> Array:
    """The u [m] with mean square 1 that minimises ‖gain ⊙ u − wanted‖.

    A model that normalises an FFN's output adds gain ⊙ y / rms(y) to the residual stream: of what
    is asked of y, only the direction counts.

    Args:
        wanted: What is to be added to the residual stream, [m], not zero.
        gain: Weight of the norm [m], nowhere zero.
    """
    pull = gain * wanted
    floor = float((gain**2).min())

    def excess(multiplier: float) -> float:
        return float(np.mean((pull / (gain**2 + multiplier)) ** 2)) - 1.0

    low = high = float(np.linalg.norm(pull)) / np.sqrt(len(pull))
    while excess(high) > 0:
        high *= 2
    low = -floor + (low + floor) / 2
    while excess(low) < 0:
        gap = low + floor
        if gap <= 1e-12 * floor:
            break
        low = -floor + gap / 2
    multiplier = low if excess(low) < 0 else float(brentq(excess, low, high))
    found = pull / (gain**2 + multiplier)
    return found / np.sqrt(np.mean(found**2))


def sizes(updates: Sequence[Array], facts: int) -> tuple[int, int]:
    """Bytes at 16 bits of the matrices that updates [m, d] change, and of the updates as low-rank.

    Args:
        updates: One for each matrix.
        facts: n; an update has no higher rank.
    """
    whole = sum(HALF * update.size for update in updates)
    thin = sum(HALF * min(facts, *update.shape) * sum(update.shape) for update in updates)
    return whole, thin


def _lifted(matrix: Array) -> Array:
    """A matrix that rounding cannot make indefinite."""
    return matrix + 1e-10 * np.trace(matrix) / len(matrix) * np.eye(len(matrix))
