"""Moments of activations whose targets are steps at a few neurons, from moments of their gaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart_trainer.fitting.moments import Scatter

    Floats = NDArray[np.floating[Any]]
    Doubles = NDArray[np.float64]
    Neurons = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class SteppedScatter:
    """Source rows x and targets x + step at S; `Activations`.

    Attributes:
        base: Moments of x.
        at: S [K], ascending.
        mean_step: Mean step [K].
        xs: X̄ᵀ times the centred steps [D, K].
        ss: Scatter of the steps [K, K].
    """

    base: Scatter
    at: Neurons
    mean_step: Doubles
    xs: Doubles
    ss: Doubles

    @classmethod
    def of(cls, scatter: Scatter, neurons: Neurons, factors: Doubles) -> SteppedScatter:
        """From the moments of x and gaps [E], of which the steps are the gaps times `factors`.

        Args:
            scatter: Of rows (x [D], gap [E]).
            neurons: S [K], ascending.
            factors: G [E, K].
        """
        return cls(
            base=scatter,
            at=neurons,
            mean_step=scatter.mean_y @ factors,
            xs=scatter.xy @ factors,
            ss=factors.T @ scatter.yy @ factors,
        )

    @property
    def n_x(self) -> float:
        """Source rows N."""
        return self.base.n_x

    @property
    def n_y(self) -> float:
        """Target rows, as many."""
        return self.base.n_y

    @property
    def mean_x(self) -> Doubles:
        """μ_X [D]."""
        return self.base.mean_x

    @property
    def mean_y(self) -> Doubles:
        """μ_Y [D]."""
        out = self.base.mean_x.copy()
        out[self.at] += self.mean_step
        return out

    @property
    def size_x(self) -> Doubles:
        """Mean |x| [D]."""
        return self.base.size_x

    def variance_x(self) -> float:
        """Mean of the diagonal of X̄ᵀX̄."""
        return self.base.variance_x()

    @property
    def lower_x(self) -> Floats:
        """X̄ᵀX̄ [D, D]."""
        return self.base.lower_x

    def scatter_x(self, neurons: Neurons | None = None) -> Doubles:
        """X̄ᵀX̄ at S [K, K], or [D, D] where `neurons` is None."""
        return self.base.scatter_x(neurons)

    def scatter_y(self, neurons: Neurons) -> Doubles:
        """ȲᵀȲ at S [K, K]."""
        place = self._place(neurons)
        own = self.xs[np.ix_(neurons, place)]
        return np.asarray(self.scatter_x(neurons) + own + own.T + self.ss[np.ix_(place, place)])

    def scatter_steps(self, delta: Floats) -> Doubles:
        """Delta X̄ᵀX̄ deltaᵀ [K, K]."""
        return self.base.scatter_steps(delta)

    def cross(self, neurons: Neurons) -> Doubles:
        """X̄ᵀȲ_S [D, K]."""
        return np.asarray(self.base.xx[:, neurons] + self.xs[:, self._place(neurons)])

    def mean_abs(self, delta: Floats, bias: Floats) -> Doubles:
        """See `Scatter.mean_abs`."""
        return self.base.mean_abs(delta, bias)

    def steps(self, delta: Floats, bias: Floats) -> float:
        """Sum over source rows of ‖delta x + b‖²."""
        return self.base.steps(delta, bias)

    def agreement(self, delta: Floats, bias: Floats, neurons: Neurons) -> tuple[float, float]:
        """Σ ⟨delta x + b, y_S − x_S⟩ and Σ ‖y_S − x_S‖²."""
        place = self._place(neurons)
        delta = np.asarray(delta, np.float64)
        mean = self.mean_step[place]
        product = (delta.T * self.xs[:, place]).sum()
        product += self.n_x * ((delta @ self.mean_x + bias) @ mean)
        ideal = np.diag(self.ss)[place].sum() + self.n_x * (mean @ mean)
        return float(product), float(ideal)

    def _place(self, neurons: Neurons) -> NDArray[np.intp]:
        return np.searchsorted(self.at, neurons)
