"""What a file holds of a fitted map: two factors or the whole matrix, in few levels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from llamacart.cartridge import LayerMap
from llamacart.file.storage import STORAGES, quantize
from llamacart.matrix import FactoredMatrix, half_floats
from llamacart_trainer.fitting.rounding import quantize_compensated, upper_factor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart.file.storage import Storage
    from llamacart.matrix import QuantizedMatrix
    from llamacart_trainer.solvers import AffineMap, Factors
    from llamacart_trainer.solvers.activations import Activations

    Floats = NDArray[np.float32]

ROUNDING_TOLERANCE = 0.05
"""Relative error of the steps that `storage = "auto"` allows a layer."""


@dataclass(frozen=True)
class Storing:
    """How the maps of one layer are stored.

    Attributes:
        storage: A name of `STORAGES`, or `auto`: the narrowest within `ROUNDING_TOLERANCE`.
        pairs: The rows that differ: what rounding changes in their steps is what counts.
        everything: Those and the neutral ones.
    """

    storage: str
    pairs: Activations
    everything: Activations

    def stored(
        self,
        layer: int,
        neurons: NDArray[np.integer[Any]],
        fitted: AffineMap,
        factors: Factors | None,
    ) -> tuple[LayerMap, float]:
        """A map in few levels, with a bias under which the mean row moves as before; and `off`.

        Args:
            layer: Index.
            neurons: S [K].
            fitted: delta [K, D] and bias [K].
            factors: What stands for delta; None stores it whole.
        """
        own = LayerMap(layer, neurons.astype(np.int32), None, fitted.bias.astype(np.float32))
        lost = 0.0
        if not fitted.delta.any():
            return own, lost
        # Rounding is measured on what is rounded.
        exact = fitted.delta if factors is None else factors.left @ factors.right
        for storage in STORAGES.values():  # the narrowest first
            if self.storage not in (storage.name, "auto"):
                continue
            delta: QuantizedMatrix | FactoredMatrix
            if factors is None:
                delta = self._rounded(fitted.delta, storage)
            else:
                delta = FactoredMatrix(
                    half_floats(factors.left), self._rounded(factors.right, storage)
                )
            bias = fitted.bias + (fitted.delta - delta.dequantize()) @ self.everything.mean_x
            own = replace(own, delta=delta, bias=bias.astype(np.float32))
            lost = self.off(own, exact, fitted)
            if lost <= ROUNDING_TOLERANCE:
                break
        return own, lost

    def off(self, stored: LayerMap, exact: NDArray[np.floating[Any]], fitted: AffineMap) -> float:
        """Length of what storing changes in the steps, over the length of the steps.

        Args:
            stored: The map as it is stored.
            exact: Matrix [K, D] that was stored.
            fitted: The map that it came from; the mean row moves as by it.
        """
        bias = fitted.bias + (fitted.delta - exact) @ self.everything.mean_x
        delta = stored.dense_delta(exact.shape[1])
        changed = self.pairs.steps(delta - exact, stored.bias - bias)
        length = self.pairs.steps(exact, bias)
        return float(np.sqrt(max(changed, 0.0) / max(length, 1e-30)))

    def _rounded(self, matrix: NDArray[np.floating[Any]], storage: Storage) -> QuantizedMatrix:
        if storage.name == "q8_0":
            return quantize(matrix, storage)
        return quantize_compensated(matrix, storage, self._factor)

    @cached_property
    def _factor(self) -> Floats:
        return upper_factor(self.everything.lower_x)
