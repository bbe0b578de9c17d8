"""Paired (or unpaired) activations of one layer, as rows or as moments of rows.

Solvers ask `Activations` for means and scatters (sums of products of centred rows) and never
learn whether the rows are in memory (`ActivationRows`) or were summed up as they streamed past
(`moments.Scatter`), nor whether rows count differently: sums and means are weighted.

Axes: N source rows, M target rows (M = N where they are paired), D FFN width, K active neurons S.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.linalg import get_blas_funcs

from llamacart.machine.blas import each, slices
from llamacart.values.steering import affine_step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Doubles = NDArray[np.float64]
    Neurons = NDArray[np.integer[Any]]

MEAN_ROWS = 256
"""Rows whose sum is taken in their own precision."""

BLOCK_ROWS = 1024
"""Rows that are less their mean at the same time: all of them would be a second copy."""

PANEL = 256
"""Columns of a matrix that are computed at the same time, or rows."""

TILE = 512
"""Rows and columns of a matrix that are mirrored at the same time."""


class Activations(Protocol):
    """What a fit needs to know of a set of source and target activations."""

    @property
    def n_x(self) -> float:
        """Source rows N, each as often as it counts."""
        ...

    @property
    def n_y(self) -> float:
        """Target rows M, each as often as it counts."""
        ...

    @property
    def mean_x(self) -> Doubles:
        """μ_X [D]."""
        ...

    @property
    def mean_y(self) -> Doubles:
        """μ_Y [D]."""
        ...

    @property
    def size_x(self) -> Doubles:
        """Mean |x| [D]: what differences are small or large against."""
        ...

    def variance_x(self) -> float:
        """Mean of the diagonal of X̄ᵀX̄."""
        ...

    def scatter_x(self, neurons: Neurons | None = None) -> Doubles:
        """X̄ᵀX̄ at S [K, K], or [D, D] where `neurons` is None."""
        ...

    def scatter_y(self, neurons: Neurons) -> Doubles:
        """ȲᵀȲ at S [K, K]."""
        ...

    @property
    def lower_x(self) -> Floats:
        """X̄ᵀX̄ [D, D], of which only the lower triangle counts; not to be changed."""
        ...

    def scatter_steps(self, delta: Floats) -> Doubles:
        """Delta X̄ᵀX̄ deltaᵀ [K, K]: the scatter of the steps that delta [K, D] takes."""
        ...

    def cross(self, neurons: Neurons) -> Doubles:
        """X̄ᵀȲ_S [D, K]; the rows must be paired."""
        ...

    def mean_abs(self, delta: Floats, bias: Floats) -> Doubles:
        """Mean over source rows of |delta x + b|, [K]."""
        ...

    def steps(self, delta: Floats, bias: Floats) -> float:
        """Sum over source rows of ‖delta x + b‖²."""
        ...

    def agreement(self, delta: Floats, bias: Floats, neurons: Neurons) -> tuple[float, float]:
        """Of the ideal steps y_S − x_S: Σ ⟨delta x + b, y_S − x_S⟩ and Σ ‖y_S − x_S‖².

        The rows must be paired.
        """
        ...


@dataclass(frozen=True)
class ActivationRows:
    """Activations whose rows are in memory.

    Attributes:
        x: Source activations [N, D].
        y: Target activations [M, D]; with `at`, the ideal steps y − x [N, K] at the neurons in it.
        weights: How often each row counts [N]; None means once. Only for rows that are paired.
        at: S [K], ascending: the target differs from the source at these neurons alone.
    """

    x: Floats
    y: Floats
    weights: Floats | None = None
    at: Neurons | None = None

    @property
    def n_x(self) -> float:
        """Source rows N, each as often as it counts."""
        return len(self.x) if self.weights is None else float(self.weights.sum())

    @property
    def n_y(self) -> float:
        """Target rows M, each as often as it counts."""
        return len(self.y) if self.weights is None else float(self.weights.sum())

    @cached_property
    def mean_x(self) -> Doubles:
        """μ_X [D]."""
        return self._mean(self.x)

    @cached_property
    def mean_y(self) -> Doubles:
        """μ_Y [D]."""
        mean = self._mean(self.y)
        if self.at is None:
            return mean
        out = self.mean_x.copy()
        out[self.at] += mean
        return out

    @cached_property
    def size_x(self) -> Doubles:
        """Mean |x| [D]."""
        return self._mean(np.abs(self.x))

    @cached_property
    def roots(self) -> Floats | None:
        """Roots of the weights [N, 1]: what makes a sum over rows a weighted one."""
        if self.weights is None:
            return None
        return np.sqrt(self.weights)[:, None].astype(self.x.dtype)

    @cached_property
    def centred_x(self) -> Floats:
        """X̄ [N, D], in the precision of the rows, each times the root of its weight.

        A copy of all rows, kept; what can, takes `centred_blocks`.
        """
        rows = self.x - self.mean_x.astype(self.x.dtype)
        if self.roots is not None:
            rows *= self.roots
        return rows

    def centred_blocks(self) -> Iterator[tuple[slice, Floats]]:
        """Some rows at a time of X̄, and which; valid until the next ones."""
        mean = self.mean_x.astype(self.x.dtype)
        room = np.empty((min(BLOCK_ROWS, len(self.x)), self.x.shape[1]), self.x.dtype)
        for start in range(0, len(self.x), BLOCK_ROWS):
            some = slice(start, min(start + BLOCK_ROWS, len(self.x)))
            rows = room[: some.stop - start]

            def centre(own: slice, start: int = start, rows: Floats = rows) -> None:
                from_x = slice(start + own.start, start + own.stop)
                np.subtract(self.x[from_x], mean, out=rows[own])
                if self.roots is not None:
                    rows[own] *= self.roots[from_x]

            each(centre, slices(len(rows), PANEL))
            yield some, rows

    def _centred_at(self, neurons: Neurons) -> Floats:
        """X̄_S [N, K]."""
        return self._rooted(self.x[:, neurons] - self.mean_x[neurons].astype(self.x.dtype))

    def centred_y(self, neurons: Neurons) -> Floats:
        """Ȳ_S [M, K], as `centred_x`."""
        mean = self.mean_y[neurons].astype(self.y.dtype)
        return self._rooted(self.target(neurons) - mean)

    def centred_steps(self, neurons: Neurons) -> Floats:
        """Ȳ_S − X̄_S [N, K], as `centred_x`; the rows must be paired."""
        if self.at is None:
            return self.centred_y(neurons) - self._centred_at(neurons)
        steps = self.ideal(neurons)
        return self._rooted(steps - self._mean(steps).astype(steps.dtype))

    def target(self, neurons: Neurons) -> Floats:
        """Y_S [M, K]."""
        if self.at is None:
            return self.y[:, neurons]
        return self.x[:, neurons] + self.ideal(neurons)

    def ideal(self, neurons: Neurons) -> Floats:
        """Y_S − X_S [N, K]; the rows must be paired."""
        if self.at is None:
            return self.y[:, neurons] - self.x[:, neurons]
        return self.y[:, np.searchsorted(self.at, neurons)]

    def variance_x(self) -> float:
        """Mean of the diagonal of X̄ᵀX̄."""
        if self._is_multiplied_out:
            return float(np.trace(self.lower_x, dtype=np.float64)) / int(self.x.shape[1])
        total = sum(
            float(np.einsum("nd,nd->", rows, rows, dtype=np.float64))
            for _, rows in self.centred_blocks()
        )
        return total / int(self.x.shape[1])

    def scatter_x(self, neurons: Neurons | None = None) -> Doubles:
        """X̄ᵀX̄ at S [K, K], or [D, D] where `neurons` is None."""
        return _mirrored(self.lower_x) if neurons is None else _gram(self._centred_at(neurons))

    @cached_property
    def lower_x(self) -> Floats:
        """X̄ᵀX̄ [D, D], of which the upper triangle is zero: half of what it takes in float64."""
        width = self.x.shape[1]
        lower = np.zeros((width, width), self.x.dtype)
        panels = slices(width, PANEL)
        for _, rows in self.centred_blocks():

            def add(own: slice, rows: Floats = rows) -> None:
                lower[own.start :, own] += rows[:, own.start :].T @ rows[:, own]

            each(add, panels)
        for own in panels:
            lower[own, own] = np.tril(lower[own, own])
        return lower

    @property
    def _is_multiplied_out(self) -> bool:
        """Whether `lower_x` is there, from which others come without a look at the rows."""
        return "lower_x" in vars(self)

    def scatter_y(self, neurons: Neurons) -> Doubles:
        """ȲᵀȲ at S [K, K]."""
        return _gram(self.centred_y(neurons))

    def scatter_steps(self, delta: Floats) -> Doubles:
        """Delta X̄ᵀX̄ deltaᵀ [K, K]."""
        across = delta.T.astype(self.x.dtype)
        if self._is_multiplied_out:
            (times,) = get_blas_funcs(("symm",), (self.x,))
            # BLAS counts by columns: what it is given is transposed, and its upper triangle ours.
            moved = times(1.0, self.lower_x.T, np.asfortranarray(across))
            return np.asarray(across.T @ moved, np.float64)
        steps = np.empty((len(self.x), len(delta)), self.x.dtype)
        for some, rows in self.centred_blocks():
            steps[some] = rows @ across
        return _gram(steps)

    def cross(self, neurons: Neurons) -> Doubles:
        """X̄ᵀȲ_S [D, K]; the rows must be paired."""
        return self.cross_with(self.centred_y(neurons))

    def cross_with(self, left: Floats) -> Doubles:
        """X̄ᵀL [D, K] for L [N, K], whose rows are times the roots of their weights too."""
        total = np.zeros((self.x.shape[1], left.shape[1]), left.dtype)
        for some, rows in self.centred_blocks():

            def add(own: slice, rows: Floats = rows, some: slice = some) -> None:
                total[own] += rows[:, own].T @ left[some]

            each(add, slices(len(total), PANEL))
        return np.asarray(total, np.float64)

    def mean_abs(self, delta: Floats, bias: Floats) -> Doubles:
        """Mean over source rows of |delta x + b|, [K]."""
        return self._mean(np.abs(self.taken(delta, bias)))

    def steps(self, delta: Floats, bias: Floats) -> float:
        """Sum over source rows of ‖delta x + b‖²."""
        return float((self._rooted(self.taken(delta, bias)) ** 2).sum(dtype=np.float64))

    def agreement(self, delta: Floats, bias: Floats, neurons: Neurons) -> tuple[float, float]:
        """Σ ⟨delta x + b, y_S − x_S⟩ and Σ ‖y_S − x_S‖²; the rows must be paired."""
        ideal = self._rooted(self.ideal(neurons))
        product = (self._rooted(self.taken(delta, bias)) * ideal).sum(dtype=np.float64)
        return float(product), float((ideal**2).sum(dtype=np.float64))

    def taken(self, delta: Floats, bias: Floats) -> Floats:
        """Delta x + b [N, K]; of the same two arrays it is computed once, and not to be changed."""
        if not (self._last and self._last[0] is delta and self._last[1] is bias):
            matrix, shift = delta.astype(self.x.dtype), bias.astype(self.x.dtype)
            steps = np.empty((len(self.x), len(delta)), self.x.dtype)

            def take(own: slice) -> None:
                steps[own] = affine_step(self.x[own], matrix, shift)

            each(take, slices(len(self.x), BLOCK_ROWS))
            self._last[:] = delta, bias, steps
        return self._last[2]

    @cached_property
    def _last(self) -> list[Floats]:
        """A matrix, a bias and their steps, which several figures are taken of."""
        return []

    def _rooted(self, rows: Floats) -> Floats:
        return rows if self.roots is None else rows * self.roots

    def _mean(self, rows: Floats) -> Doubles:
        """Of a block in the rows' precision, of all blocks in float64."""
        total = np.zeros(rows.shape[1])
        counts = np.ones(len(rows), rows.dtype) if self.weights is None else self.weights
        for start in range(0, len(rows), MEAN_ROWS):
            some = slice(start, start + MEAN_ROWS)
            total += counts[some] @ rows[some]
        return total / max(float(counts.sum(dtype=np.float64)), 1e-300)


def _gram(rows: Floats) -> Doubles:
    return np.asarray(rows.T @ rows, np.float64)


def _mirrored(lower: Floats) -> Doubles:
    """A symmetric matrix [D, D] of which the lower triangle is given."""
    whole = lower.astype(np.float64)
    for start in range(0, len(whole), TILE):
        own = slice(start, start + TILE)
        tile = whole[own, own]
        tile[:] = np.tril(tile) + np.tril(tile, -1).T
        whole[own, start + TILE :] = whole[start + TILE :, own].T
    return whole
