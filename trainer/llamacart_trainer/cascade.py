"""The cascade: layer l is fitted on activations that layers 0..l-1 already distort.

Where all rows fit one ubatch, one forward pass does it all: when llama.cpp delivers layer l it
holds every sample's activations at once, steered by the maps fitted at 0..l-1 a moment ago.
Otherwise the samples stream past once for each layer. Both see the same activations and so give
the same maps, up to rounding.

llama.cpp keeps only the last layer's rows whose logits are asked for, at n_vocab floats each.
The last layer is therefore fitted in the same pass only where that is affordable, and by one
streamed pass otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from llamacart.capture import fits_one_ubatch, forward, output_budget
from llamacart_trainer.fitting import FitSettings, LayerReport, fit_layer, step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from llamacart.cartridge import LayerMap
    from llamacart.model import Model
    from llamacart.tap import Visitor

MAX_UBATCH_ROWS = 16384


@dataclass
class Cascade:
    """Fits every layer of one model in turn.

    Args:
        model: The model.
        sequences: Token ids of the source sequences.
        rows: Source rows [N] that are paired, numbered over all sequences; may repeat.
        targets: For each layer the target activations [N, D], in the order of `rows`.
        settings: How each layer is fitted.
        layers: Layers to fit, ascending; the others are left as they are.
        on_layer: Called with each layer's figures, for progress.
        max_ubatch_rows: Stream above this number of rows.
        n_threads: Threads for llama.cpp.
    """

    model: Model
    sequences: Sequence[Sequence[int]]
    rows: NDArray[np.int64]
    targets: dict[int, NDArray[np.float32]]
    settings: FitSettings
    layers: Sequence[int]
    on_layer: Callable[[LayerReport], None] = lambda _report: None
    max_ubatch_rows: int = MAX_UBATCH_ROWS
    n_threads: int | None = None
    maps: dict[int, LayerMap] = field(default_factory=dict)
    reports: list[LayerReport] = field(default_factory=list)

    def run(self) -> None:
        """Fit all layers; `maps` and `reports` hold the result."""
        total = sum(map(len, self.sequences))
        at_once: list[int] = []
        if fits_one_ubatch(self.sequences, self.max_ubatch_rows):
            affordable = total <= output_budget(self.model)
            last = self.model.n_layer - 1
            at_once = [layer for layer in self.layers if layer < last or affordable]
        if at_once:
            self._fit_in_one_pass(at_once)
        for layer in self.layers[len(at_once) :]:
            self._fit_streamed(layer, total)

    def _fit_in_one_pass(self, layers: Sequence[int]) -> None:
        def visit(layer: int, _rows: NDArray[np.int64], h: NDArray[np.float32]) -> bool:
            self._fit(layer, h[self.rows])
            self._steer(layer, h)
            return True

        self._forward(visit, layers, one_ubatch=True)

    def _fit_streamed(self, layer: int, total: int) -> None:
        gathered = np.zeros((total, self.model.n_ff), np.float32)

        def visit(seen: int, rows: NDArray[np.int64], h: NDArray[np.float32]) -> bool:
            if seen == layer:
                gathered[rows] = h
            else:
                self._steer(seen, h)
            return True

        self._forward(visit, [*self.maps, layer])
        self._fit(layer, gathered[self.rows])

    def _forward(self, visit: Visitor, layers: Sequence[int], *, one_ubatch: bool = False) -> None:
        forward(
            self.model,
            self.sequences,
            visit,
            layers=layers,
            one_ubatch=one_ubatch,
            n_threads=self.n_threads,
        )

    def _fit(self, layer: int, x: NDArray[np.float32]) -> None:
        layer_map, report = fit_layer(layer, x, self.targets[layer], self.settings)
        if layer_map is not None:
            self.maps[layer] = layer_map
        self.reports.append(report)
        self.on_layer(report)

    def _steer(self, layer: int, h: NDArray[np.float32]) -> None:
        """Apply the fitted map at α = 1 with the rounded weights that will act at run time."""
        layer_map = self.maps.get(layer)
        if layer_map is not None:
            h[:, layer_map.neurons] += step(layer_map, h)
