"""What a solver is given and what it returns.

Axes: N paired rows, D FFN width, K active neurons S. Every solver returns the map in the form a
cartridge stores: delta = W − E_S [K, D] and bias b [K], so that the steered value is
x_S + delta x + b. Its *prior* is what it falls back to where the data say nothing, W = 0 or
W = E_S; the spectrum of W − prior tells how much more than that it has learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from llamacart_trainer.solvers.activations import Activations

    Floats = NDArray[np.floating[Any]]
    Doubles = NDArray[np.float64]

Prior = Literal["zero", "identity"]


@dataclass(frozen=True)
class AffineMap:
    """delta = W − E_S [K, D] and bias b [K] of one layer."""

    delta: Floats
    bias: Floats


@dataclass(frozen=True)
class Problem:
    """One layer's data and active neurons.

    Attributes:
        neurons: S, int [K], ascending.
        pairs: The rows whose target differs from their source. Means, directions and transport
            maps come from these alone.
        everything: Those and the neutral rows, which are to stay as they are. Regressions are
            over these. The same object as `pairs` where there is no neutral row.
    """

    neurons: NDArray[np.integer[Any]]
    pairs: Activations
    everything: Activations
    paired: bool = True

    @property
    def shift(self) -> Doubles:
        """μ_Y − μ_X [D] over `pairs`."""
        return self.pairs.mean_y - self.pairs.mean_x

    def no_delta(self) -> Doubles:
        """Zeros [K, D]."""
        return np.zeros((len(self.neurons), len(self.pairs.mean_x)))


@dataclass(frozen=True)
class PenaltyCurve:
    """A choice of λ and its evidence.

    Attributes:
        penalty: The λ chosen.
        penalties: λ tried, ascending.
        errors: Held-out mean squared error per row and neuron at each.
        rule: `k-fold`, `gcv` or `fixed`.
    """

    penalty: float
    penalties: tuple[float, ...]
    errors: tuple[float, ...]
    rule: str

    @classmethod
    def fixed(cls, penalty: float) -> PenaltyCurve:
        """A λ that was not searched for."""
        return cls(penalty, (), (), "fixed")

    @classmethod
    def least(cls, penalties: Doubles, errors: Doubles, rule: str) -> PenaltyCurve:
        """The λ of the least error; of equals, the largest."""
        best = len(errors) - 1 - int(np.argmin(errors[::-1]))
        return cls(float(penalties[best]), tuple(penalties.tolist()), tuple(errors.tolist()), rule)


@dataclass(frozen=True)
class Solver:
    """A closed form and what it asks for.

    Attributes:
        fit: Problem and λ → map. Solvers without a penalty do not look at λ.
        prior: See the module.
        needs_pairs: Whether row i of X must belong to row i of Y.
        needs_rows: Whether moments do not suffice.
        choose: Problem and folds → λ by cross-validation; None where there is no λ.
    """

    fit: Callable[[Problem, float], AffineMap]
    prior: Prior = "identity"
    needs_pairs: bool = False
    needs_rows: bool = False
    choose: Callable[[Problem, NDArray[np.integer[Any]] | None], PenaltyCurve] | None = None

    def __call__(self, problem: Problem, penalty: float) -> AffineMap:
        """Fit the problem at λ = `penalty`."""
        return self.fit(problem, penalty)


def gap(delta: Floats, neurons: NDArray[np.integer[Any]], prior: Prior) -> Doubles:
    """W − prior [K, D] in float64, from delta = W − E_S."""
    weights = np.array(delta, np.float64)
    if prior == "zero":
        weights[np.arange(len(neurons)), neurons] += 1.0
    return weights


def from_gap(weights: Floats, neurons: NDArray[np.integer[Any]], prior: Prior) -> Doubles:
    """The stored W − E_S [K, D] in float64, from W − prior."""
    delta = np.array(weights, np.float64)
    if prior == "zero":
        delta[np.arange(len(neurons)), neurons] -= 1.0
    return delta
