"""Layers that teach facts: early ones mark subjects, later ones make last rows say objects.

Each layer is asked for its part of what the layers before it have left open, as a step in the
residual stream. From there on it is a gap as any other: see `llamacart_trainer.fitting.gap`.

Axes: N source rows, n of them tied, D FFN width, E width of the residual stream.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from llamacart_trainer.fitting.aim import GapAim, Part
from llamacart_trainer.fitting.facts.wishes import NOTHING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart_trainer.fitting.chunks import SampleChunk
    from llamacart_trainer.fitting.settings import FitSettings
    from llamacart_trainer.fitting.sight import Seen

    Floats = NDArray[np.float32]


class Stage(Protocol):
    """What some layers do together: `Marks`, `Wishes`."""

    @property
    def layers(self) -> tuple[int, ...]:
        """They, ascending."""
        ...

    @property
    def lengthens(self) -> bool:
        """Whether only what steps do along their gaps counts; see `FitSettings`."""
        ...

    def rows(self, chunk: SampleChunk) -> NDArray[np.int64]:
        """What each tied row of a chunk is to them [n]: a number, or `NOTHING`."""
        ...

    def steps(
        self, numbers: NDArray[np.int64], before: Floats, moved: Floats, metric: Floats
    ) -> Floats:
        """What rows of some numbers still miss [N, E]; see `Wishes`."""
        ...


class ObjectAim(GapAim):
    """What is missing of the marks at subjects, and until last rows say their objects.

    Args:
        model: The model.
        settings: How a layer is fitted.
        neutral_weight: How often a neutral row counts.
        layers: Layers to fit.
        chunk: Samples, some of them tied; their targets tell how large the stream is.
        stages: What the layers do. A tied row that is nothing to a layer is to stay there.
        n_threads: Threads for compute.

    Raises:
        UnsupportedModelError: The model's FFN reaches the residual stream in another way.
    """

    def __init__(
        self,
        model: Model,
        settings: FitSettings,
        neutral_weight: float,
        layers: Sequence[int],
        chunk: SampleChunk,
        stages: Sequence[Stage],
        n_threads: int | None = None,
    ) -> None:
        self._all = tuple(stages)
        self._stages = {layer: stage for stage in stages for layer in stage.layers}
        super().__init__(model, settings, neutral_weight, layers, chunk, n_threads)

    def _counted(self, chunk: SampleChunk) -> NDArray[np.int64]:
        """Those that are something to a stage: what is to stay has no target that says anything."""
        asked = np.logical_or.reduce([stage.rows(chunk) != NOTHING for stage in self._all])
        return chunk.target_rows[asked] if asked.any() else chunk.target_rows

    def _how(self, layer: int) -> FitSettings:
        """See `GapAim`."""
        return replace(self._settings, lengthen=self._stages[layer].lengthens)

    def part(self, layer: int, chunk: SampleChunk, source: Seen, target: Seen) -> Part:
        """See `Aim`. The target is the source as it is without steps."""
        gap, (x, before) = self._gap(layer), self._streams(source, target)
        stage, tied = self._stages[layer], ~chunk.neutral
        numbers = stage.rows(chunk)
        asked = numbers != NOTHING
        own = source.h[tied][asked]
        before = before[asked] + gap.end.added(gap.end.output(target.h[asked]))
        moved = x[tied][asked] + gap.end.added(gap.end.output(own)) - before
        whole = stage.steps(numbers[asked], before, moved, gap.roots**2)
        left = sum(other >= layer for other in stage.layers)
        missing = np.zeros((len(numbers), x.shape[1]), np.float32)
        missing[asked] = gap.scaled(own, whole * np.float32(self._settings.step / left))
        return self._part(gap, chunk, source, missing)
