"""Which neurons a cartridge acts on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart_trainer.solvers.activations import Activations

ROUNDING = 1e-3


def select_neurons(activations: Activations, threshold: float) -> NDArray[np.int64]:
    """Neurons whose share of the mean difference passes a threshold, ascending.

    With d = μ_Y − μ_X [D], neuron i is active where |d_i| / ‖d‖₂ > δ. None is where ‖d‖₂ is under
    `ROUNDING` of the activations' own length: equal texts differ by that much from one batch to
    another.

    Args:
        activations: Activations that differ; no neutral rows.
        threshold: δ ≥ 0.

    Source: the paper's pattern sparse threshold.
    """
    difference = activations.mean_y - activations.mean_x
    norm = float(np.linalg.norm(difference))
    if norm <= ROUNDING * float(np.linalg.norm(activations.size_x)):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.abs(difference) / norm > threshold)
