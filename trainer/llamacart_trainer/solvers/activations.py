"""Paired (or unpaired) activations of one layer, as rows or as moments of rows.

Solvers ask `Activations` for means and scatters (sums of products of centred rows) and never
learn whether the rows are in memory (`ActivationRows`) or were summed up as they streamed past
(`moments.Scatter`).

Axes: N source rows, M target rows (M = N where they are paired), D FFN width, K active neurons S.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from llamacart.values.steering import affine_step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Doubles = NDArray[np.float64]
    Neurons = NDArray[np.integer[Any]]


class Activations(Protocol):
    """What a fit needs to know of a set of source and target activations."""

    @property
    def n_x(self) -> int:
        """Source rows N."""
        ...

    @property
    def n_y(self) -> int:
        """Target rows M."""
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

    def scatter_x(self, neurons: Neurons | None = None) -> Doubles:
        """X̄ᵀX̄ at S [K, K], or [D, D] where `neurons` is None."""
        ...

    def scatter_y(self, neurons: Neurons) -> Doubles:
        """ȲᵀȲ at S [K, K]."""
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
        y: Target activations [M, D].
    """

    x: Floats
    y: Floats

    @property
    def n_x(self) -> int:
        """Source rows N."""
        return len(self.x)

    @property
    def n_y(self) -> int:
        """Target rows M."""
        return len(self.y)

    @cached_property
    def mean_x(self) -> Doubles:
        """μ_X [D]."""
        return np.asarray(self.x.mean(axis=0, dtype=np.float64))

    @cached_property
    def mean_y(self) -> Doubles:
        """μ_Y [D]."""
        return np.asarray(self.y.mean(axis=0, dtype=np.float64))

    @cached_property
    def size_x(self) -> Doubles:
        """Mean |x| [D]."""
        return np.asarray(np.abs(self.x).mean(axis=0, dtype=np.float64))

    @cached_property
    def centred_x(self) -> Floats:
        """X̄ [N, D], in the precision of the rows."""
        return self.x - self.mean_x.astype(self.x.dtype)

    def centred_y(self, neurons: Neurons) -> Floats:
        """Ȳ_S [M, K], in the precision of the rows."""
        return self.y[:, neurons] - self.mean_y[neurons].astype(self.y.dtype)

    def scatter_x(self, neurons: Neurons | None = None) -> Doubles:
        """X̄ᵀX̄ at S [K, K], or [D, D] where `neurons` is None."""
        return _gram(self.centred_x if neurons is None else self.centred_x[:, neurons])

    def scatter_y(self, neurons: Neurons) -> Doubles:
        """ȲᵀȲ at S [K, K]."""
        return _gram(self.centred_y(neurons))

    def cross(self, neurons: Neurons) -> Doubles:
        """X̄ᵀȲ_S [D, K]; the rows must be paired."""
        return np.asarray(self.centred_x.T @ self.centred_y(neurons), np.float64)

    def mean_abs(self, delta: Floats, bias: Floats) -> Doubles:
        """Mean over source rows of |delta x + b|, [K]."""
        return np.asarray(np.abs(self._steps(delta, bias)).mean(axis=0, dtype=np.float64))

    def steps(self, delta: Floats, bias: Floats) -> float:
        """Sum over source rows of ‖delta x + b‖²."""
        return float((self._steps(delta, bias) ** 2).sum(dtype=np.float64))

    def agreement(self, delta: Floats, bias: Floats, neurons: Neurons) -> tuple[float, float]:
        """Σ ⟨delta x + b, y_S − x_S⟩ and Σ ‖y_S − x_S‖²; the rows must be paired."""
        ideal = self.y[:, neurons] - self.x[:, neurons]
        product = (self._steps(delta, bias) * ideal).sum(dtype=np.float64)
        return float(product), float((ideal**2).sum(dtype=np.float64))

    def _steps(self, delta: Floats, bias: Floats) -> Floats:
        return affine_step(self.x, delta.astype(self.x.dtype), bias.astype(self.x.dtype))


def _gram(rows: Floats) -> Doubles:
    return np.asarray(rows.T @ rows, np.float64)
