"""Which cartridges act on which rows, and the dense reference of what they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart.cartridge import Cartridge, LayerMap
    from llamacart.values.mentions import When

    Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Dose:
    """One cartridge at one strength.

    Attributes:
        cartridge: It.
        alpha: α.
        when: It acts from where one of these texts has been said; None for the cartridge's own
            condition, the empty tuple for none. See `llamacart.values.mentions`.
    """

    cartridge: Cartridge
    alpha: float
    when: When | None = None

    @property
    def condition(self) -> When:
        """Texts one of which must have been said; the empty tuple means always."""
        return self.cartridge.when if self.when is None else self.when


Steering = tuple[Dose, ...]
"""What acts on a row; order does not matter, the empty tuple means unsteered."""

UNSTEERED: Steering = ()

SteeringKey = tuple[tuple[str, float, "When"], ...]
"""What tells apart activations under different steerings: of each dose the content hash, α and what
it waits for."""


def effective(steering: Steering) -> Steering:
    """Drop what does nothing: α = 0 is the same as no cartridge, to the byte."""
    return tuple(dose for dose in steering if dose.alpha != 0.0)


def key_of(steering: Steering) -> SteeringKey:
    """The key of the rows that `steering` acts on; `()` where nothing acts.

    Rows of equal tokens and equal keys have equal keys and values in the KV cache. The order of
    the doses counts: they are summed in that order, and floating-point sums depend on it.
    """
    return tuple(
        (dose.cartridge.content_hash, dose.alpha, dose.condition) for dose in effective(steering)
    )


def affine_step(h: Floats, delta: Floats, bias: Floats) -> Floats:
    """(W − E_S) h + b for rows h [T, D]: what a map adds at S for α = 1, [T, K].

    Args:
        h: Activations [T, D].
        delta: W − E_S [K, D].
        bias: b [K].
    """
    step: Floats = h @ delta.T + bias
    return step


@dataclass(frozen=True)
class DenseMap:
    """A layer's map with its matrix expanded: what the compiled hook does, in NumPy.

    Attributes:
        neurons: S, int [K].
        delta: W − E_S that acts, float32 [K, D].
        bias: b, float32 [K].
    """

    neurons: NDArray[np.int32]
    delta: NDArray[np.float32]
    bias: NDArray[np.float32]

    @classmethod
    def of(cls, layer_map: LayerMap, width: int) -> DenseMap:
        """Expand a map for D = `width`: 4 K D bytes."""
        return cls(layer_map.neurons, layer_map.dense_delta(width), layer_map.bias)

    def step(self, h: NDArray[np.float32]) -> NDArray[np.float32]:
        """(W − E_S) h + b for rows h [T, D], float32 [T, K]."""
        return np.asarray(affine_step(h, self.delta, self.bias), np.float32)

    def steer(self, h: NDArray[np.float32], alpha: float = 1.0) -> NDArray[np.float32]:
        """Steer rows h [T, D] in place: h_S ← h_S + α ((W − E_S) h + b).

        Returns:
            The step for α = 1, float32 [T, K].
        """
        step = self.step(h)
        h[:, self.neurons] += np.float32(alpha) * step
        return step


def apply_reference(
    h: NDArray[np.float32], steerings: Sequence[Steering], layer: int
) -> NDArray[np.float32]:
    """Steer rows with dense matrices in NumPy: the oracle of the compiled hook.

    h_S ← h_S + Σ_i α_i ((W_i − E_S) h + b_i), every term from the same h.

    Args:
        h: Activations [T, D]; not changed.
        steerings: What acts on each of the T rows.
        layer: Layer index.

    Returns:
        Steered activations [T, D].
    """
    out = h.copy()
    for row, steering in enumerate(steerings):
        for dose in steering:
            for layer_map in dose.cartridge.layers:
                if layer_map.layer == layer:
                    dense = DenseMap.of(layer_map, h.shape[1])
                    step = dense.step(h[row : row + 1])[0]
                    out[row, dense.neurons] += np.float32(dose.alpha) * step
    return out
