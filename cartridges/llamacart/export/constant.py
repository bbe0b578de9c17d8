"""A direction that all rows have in common: u with u · h ≈ 1, which folds a bias into a matrix.

It is the ridge solution of X u = 1 over rows X [N, D] of the steered model: (XᵀX + N λ s I) u =
Xᵀ1, with s the mean square of X's entries. λ is the one of `PENALTIES` that does best on other
rows.
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


def find_constant(rows: LayerRows, n_rows: int) -> Constant:
    """The best u of one layer.

    Args:
        rows: Its rows.
        n_rows: N, those that `rows.gram` sums up.
    """
    best: Constant | None = None
    width = len(rows.sums)
    for penalty in PENALTIES:
        gram = rows.gram.copy()
        gram[np.diag_indices(width)] += n_rows * penalty * max(rows.scale, 1e-30)
        direction = np.asarray(np.linalg.solve(gram, rows.sums), np.float32)
        error = float(np.sqrt(np.mean((1 - rows.held @ direction) ** 2)))
        if best is None or error < best.error:
            best = Constant(direction, penalty, error)
    assert best is not None  # noqa: S101 - PENALTIES is not empty
    return best
