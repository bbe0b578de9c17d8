"""A direction that all rows have in common: u with u · h ≈ 1, which folds a bias into a matrix.

It is the ridge solution of X u = 1 over rows X [N, D] of the steered model: (XᵀX + N λ s I) u =
Xᵀ1, with s the mean square of X's entries, or u = Xᵀ (X Xᵀ + N λ s I)⁻¹ 1, whichever matrix is the
smaller. λ is the one of `PENALTIES` that does best on other rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart.export.rows import LayerRows

PENALTIES = (1e-2, 1e-1, 1.0)
"""λ that are tried."""

BLOCK = 512
"""Rows that are taken to double at once."""


@dataclass(frozen=True)
class Constant:
    """A layer's u.

    Attributes:
        direction: u, float32 [D].
        penalty: λ.
        error: Root mean square of 1 − u · h on rows that u was not fitted on: the share of the
            bias that a row gets wrong. It is 1 for u = 0.
    """

    direction: NDArray[np.float32]
    penalty: float
    error: float


def find_constant(rows: LayerRows) -> Constant:
    """The best u of one layer."""
    x = rows.fit
    n, width = x.shape
    dual = n < width
    gram = _gram(x if dual else x.T)
    right = np.ones(n) if dual else x.sum(axis=0, dtype=np.float64)
    diagonal = np.einsum("ii->i", gram)
    plain = diagonal.copy()
    best: Constant | None = None
    for penalty in PENALTIES:
        diagonal[:] = plain + n * penalty * max(rows.scale, 1e-30)
        found = np.linalg.solve(gram, right)
        direction = np.asarray(_weighed(x, found) if dual else found, np.float32)
        error = float(np.sqrt(np.mean((1 - rows.held @ direction) ** 2)))
        if best is None or error < best.error:
            best = Constant(direction, penalty, error)
    assert best is not None  # noqa: S101 - PENALTIES is not empty
    return best


def solving_bytes(n: int, width: int) -> int:
    """What `find_constant` takes beside N rows of D."""
    least = min(n, width)
    return 8 * (2 * least**2 + 2 * min(BLOCK, least) * max(n, width))


def _gram(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """X Xᵀ of rows [N, D], in double since some are hundreds of times longer than others."""
    out = np.empty((len(x), len(x)))
    blocks = [slice(start, start + BLOCK) for start in range(0, len(x), BLOCK)]
    for number, one in enumerate(blocks):
        left = x[one].astype(np.float64)
        for other in blocks[: number + 1]:
            out[one, other] = left @ x[other].T.astype(np.float64)
            out[other, one] = out[one, other].T
    return out


def _weighed(x: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Xᵀ w of rows [N, D]."""
    blocks = (slice(start, start + BLOCK) for start in range(0, len(x), BLOCK))
    return sum((weights[own] @ x[own].astype(np.float64) for own in blocks), np.zeros(x.shape[1]))
