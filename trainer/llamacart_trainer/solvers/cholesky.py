"""Cholesky factors of large matrices, on the threads that `llamacart.machine.blas` gives.

LAPACK's computes on the threads of BLAS alone, and on few processors BLAS is given one: at the
width of a model with a billion parameters the other processor waited for a third of each fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_factor, cholesky, solve_triangular

from llamacart.machine.blas import each, slices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

LARGE = 4096
"""Rows from which on a matrix is factored in panels: below, one thread takes half a second."""

COLUMNS = 384
"""Of a panel."""
ROWS = 768
"""Of a panel that one thread computes at a time."""


def factor(gram: Doubles) -> tuple[Doubles, bool]:
    """A symmetric matrix [N, N] as `scipy.linalg.cho_solve` takes its factor.

    Whatever the number of threads, the factor is the same to the bit.

    Args:
        gram: Only its lower triangle is looked at; overwritten.

    Raises:
        LinAlgError: It is not positive definite.

    Source: left-looking blocked Cholesky; Golub and Van Loan, Matrix Computations, 4.2.
    """
    if len(gram) < LARGE:
        # The transpose of a symmetric matrix is itself, in the order that LAPACK takes as it is.
        small: tuple[Doubles, bool] = cho_factor(gram.T, overwrite_a=True)
        return small
    width = len(gram)
    for own in slices(width, COLUMNS):
        before = gram[own, : own.start].T

        def subtract(rows: slice, own: slice = own, before: Doubles = before) -> None:
            gram[rows, own] -= gram[rows, : own.start] @ before

        each(subtract, slices(width, ROWS, start=own.start))
        corner = cholesky(gram[own, own], lower=True)
        gram[own, own] = corner

        def solve(rows: slice, own: slice = own, corner: Doubles = corner) -> None:
            gram[rows, own] = solve_triangular(corner, gram[rows, own].T, lower=True).T

        each(solve, slices(width, ROWS, start=own.stop))
    return gram.T, False


def as_doubles(lower: NDArray[np.floating]) -> Doubles:
    """A copy of a matrix in float64, made by all threads: its memory is new to the process."""
    copy = np.empty(lower.shape)

    def fill(rows: slice) -> None:
        copy[rows] = lower[rows]

    each(fill, slices(len(lower), ROWS))
    return copy
