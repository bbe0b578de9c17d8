"""Which cartridges act on which rows, and the dense reference of what they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart.cartridge import Cartridge, LayerMap


@dataclass(frozen=True)
class Dose:
    """One cartridge at one strength."""

    cartridge: Cartridge
    alpha: float


Steering = tuple[Dose, ...]
"""What acts on a row; order does not matter, the empty tuple means unsteered."""

UNSTEERED: Steering = ()

SteeringKey = tuple[tuple[str, float], ...]
"""What tells apart activations under different steerings: content hash and α of each dose."""


def effective(steering: Steering) -> Steering:
    """Drop what does nothing: α = 0 is the same as no cartridge, to the byte."""
    return tuple(dose for dose in steering if dose.alpha != 0.0)


def key_of(steering: Steering) -> SteeringKey:
    """The key of the rows that `steering` acts on; `()` where nothing acts.

    Rows of equal tokens and equal keys have equal keys and values in the KV cache. The order of
    the doses counts: they are summed in that order, and floating-point sums depend on it.
    """
    return tuple((dose.cartridge.content_hash, dose.alpha) for dose in effective(steering))


def layer_maps(steering: Steering, layer: int) -> list[tuple[LayerMap, float]]:
    """The maps and αs that act at `layer`."""
    return [
        (layer_map, dose.alpha)
        for dose in steering
        for layer_map in dose.cartridge.layers
        if layer_map.layer == layer
    ]


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
        for layer_map, alpha in layer_maps(steering, layer):
            delta = layer_map.dense_delta(h.shape[1]) @ h[row] + layer_map.bias
            out[row, layer_map.neurons] += np.float32(alpha) * delta
    return out
