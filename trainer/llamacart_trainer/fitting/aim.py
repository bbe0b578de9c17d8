"""What a layer is fitted to: the rows that a cascade gathers, and the fit that takes them.

Both sides of a pair are seen where a layer's gated product is done. `CopyAim` is the paper's: the
map is to give the target's activations. `ResidualAim` compares the residual streams behind the
layer, the source's with the maps of the layers before it acting, so that each layer is asked only
for what those have left open. `llamacart_trainer.fitting.facts.aim` asks for objects of facts.

Axes: N source rows, n of them tied to a target's, M target rows, D FFN width, E width of the
residual stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from llamacart.llama.feed_forward import feed_forward
from llamacart.passes.residual import check_residual, residual_sizes
from llamacart_trainer.fitting.gap.equation import Gap, reading_metric
from llamacart_trainer.fitting.gap.reach import fit_layer_to_gap, fit_layer_to_gap_from_moments
from llamacart_trainer.fitting.layer import fit_layer, fit_layer_from_moments
from llamacart_trainer.fitting.moments import Moments
from llamacart_trainer.fitting.rows.rooms import NO_ROOMS, Rooms

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from llamacart.cartridge import LayerMap
    from llamacart.llama.model import Model
    from llamacart_trainer.fitting.chunks import SampleChunk
    from llamacart_trainer.fitting.rows.rooms import Counts
    from llamacart_trainer.fitting.settings import FitSettings, LayerReport
    from llamacart_trainer.fitting.sight import Seen

    Floats = NDArray[np.float32]
    Found = tuple[LayerMap | None, LayerReport]


class Part(NamedTuple):
    """What one chunk, or all of them, give to a layer's fit.

    Attributes:
        x: Source activations [N, D].
        aims: What those of them are fitted to that are not neutral: target activations [n, D]
            ([M, D] where rows are not paired), or gaps [n, E].
        neutral: Which of the source rows [N] are there for locality.
        weights: How often each source row counts [N]; None means once.
        untouched: Source rows are of texts on which no cartridge acts.
    """

    x: Floats
    aims: Floats
    neutral: NDArray[np.bool_]
    weights: Floats | None = None
    untouched: bool = False

    @classmethod
    def joined(cls, parts: Iterable[Part], counts: Counts, rooms: Rooms = NO_ROOMS) -> Part:
        """All parts one behind the other, taken up one at a time; some may have no weights.

        Those that are untouched come last, so that the order does not depend on the chunks.

        Args:
            parts: At least one.
            counts: Rows of all together.
            rooms: Where theirs already are one behind the other.
        """
        joined: Part | None = None
        n_rows = counts.steered + counts.untouched
        ends = {False: 0, True: counts.steered}
        aim_at = 0
        for part in parts:
            joined = part._joining(n_rows, counts.aims, rooms) if joined is None else joined
            at = ends[part.untouched]
            rows = slice(at, at + len(part.x))
            joined.neutral[rows] = part.neutral
            if rooms.x is None:
                joined.x[rows] = part.x
            if part.weights is not None:
                weights = joined.weights
                if weights is None:
                    weights = np.ones(n_rows, np.float32)
                    joined = joined._replace(weights=weights)
                weights[rows] = part.weights
            if rooms.aims is None:
                joined.aims[aim_at : aim_at + len(part.aims)] = part.aims
            ends[part.untouched], aim_at = rows.stop, aim_at + len(part.aims)
        if joined is None:
            raise ValueError("there is no part to join")
        return joined

    def _joining(self, n_rows: int, n_aims: int, rooms: Rooms) -> Part:
        """Room for rows of this kind."""
        x, aims = rooms
        return Part(
            np.empty((n_rows, self.x.shape[1]), np.float32) if x is None else x,
            np.empty((n_aims, self.aims.shape[1]), np.float32) if aims is None else aims,
            np.empty(n_rows, np.bool_),
        )


class Aim(Protocol):
    """What a layer is fitted to."""

    @property
    def beside(self) -> str | None:
        """Node of the residual stream, where it is asked for."""
        ...

    @property
    def copies(self) -> bool:
        """Whether target activations are what is aimed at, as they are."""
        ...

    def part(self, layer: int, chunk: SampleChunk, source: Seen, target: Seen) -> Part:
        """What a chunk gives.

        Args:
            layer: Index.
            chunk: Says which rows are tied and which neutral.
            source: The chunk's source rows, as the layers before have steered them.
            target: Its target rows.
        """
        ...

    def fit(self, layer: int, rows: Part, groups: NDArray[np.integer[Any]]) -> Found:
        """Fit a layer on the rows of all chunks, of which `groups` says their text."""
        ...

    def fit_from_moments(self, layer: int, moments: Moments) -> Found:
        """Fit a layer on the moments of the rows of all chunks."""
        ...

    def moments(self) -> Moments:
        """Moments of no rows."""
        ...


class CopyAim:
    """The target's activations.

    Args:
        model: The model.
        settings: How a layer is fitted.
        neutral_weight: How often a neutral row counts.
        paired: Whether rows are tied one to one.
    """

    beside: str | None = None
    copies = True

    def __init__(
        self, model: Model, settings: FitSettings, neutral_weight: float, *, paired: bool
    ) -> None:
        self._width = model.n_ff
        self._neutral_weight = neutral_weight
        self._settings = settings
        self._paired = paired

    def part(self, layer: int, chunk: SampleChunk, source: Seen, target: Seen) -> Part:  # noqa: ARG002
        """See `Aim`."""
        return Part(source.h, target.h, chunk.neutral, _weights(chunk, self._neutral_weight))

    def fit(self, layer: int, rows: Part, groups: NDArray[np.integer[Any]]) -> Found:
        """See `Aim`."""
        return fit_layer(
            layer,
            rows.x,
            rows.aims,
            self._settings,
            neutral=rows.neutral if rows.neutral.any() else None,
            paired=self._paired,
            groups=groups,
            weights=rows.weights,
        )

    def fit_from_moments(self, layer: int, moments: Moments) -> Found:
        """See `Aim`."""
        return fit_layer_from_moments(layer, moments, self._settings)

    def moments(self) -> Moments:
        """See `Aim`."""
        return Moments(self._width, self._paired)


class GapAim:
    """What is missing behind the layer; what that is, `part` says.

    Args:
        model: The model.
        settings: How a layer is fitted.
        neutral_weight: How often a neutral row counts.
        layers: Layers to fit.
        chunk: Samples, some of them tied; their targets tell how large the stream is.
        n_threads: Threads for compute.

    Raises:
        UnsupportedModelError: The model's FFN reaches the residual stream in another way.
    """

    copies = False

    def __init__(
        self,
        model: Model,
        settings: FitSettings,
        neutral_weight: float,
        layers: Sequence[int],
        chunk: SampleChunk,
        n_threads: int | None = None,
    ) -> None:
        some = {layers[0], layers[len(layers) // 2], layers[-1]}
        check_residual(model, some, n_threads=n_threads)
        self.beside: str | None = model.residual_input
        self._model = model
        self._settings = settings
        self._neutral_weight = neutral_weight
        self._sizes = residual_sizes(
            model,
            chunk.targets,
            self._counted(chunk),
            shared=True,
            n_threads=n_threads,
        )
        self._kept: tuple[int, Gap] | None = None

    def _counted(self, chunk: SampleChunk) -> NDArray[np.int64]:
        """Target rows that tell how large the stream is; at least one."""
        return chunk.target_rows

    def _streams(self, source: Seen, target: Seen) -> tuple[Floats, Floats]:
        """The residual streams of both sides as they enter the FFN."""
        if source.x is None or target.x is None:
            raise ValueError("the residual stream was not looked at")
        return source.x, target.x

    def _part(self, gap: Gap, chunk: SampleChunk, source: Seen, missing: Floats) -> Part:
        """Rows whose tied ones miss so much [n, E], in the equation's units."""
        counts = _weights(chunk, self._neutral_weight)
        weights = gap.weights(self._streams(source, source)[0], source.h)
        weights = weights if counts is None else weights * counts
        return Part(source.h, missing, chunk.neutral, weights)

    def _how(self, layer: int) -> FitSettings:  # noqa: ARG002
        """How a layer is fitted."""
        return self._settings

    def fit(self, layer: int, rows: Part, groups: NDArray[np.integer[Any]]) -> Found:
        """See `Aim`."""
        return fit_layer_to_gap(
            layer,
            rows.x,
            rows.aims,
            self._gap(layer).ways,
            self._how(layer),
            neutral=rows.neutral,
            groups=groups,
            weights=rows.weights,
        )

    def fit_from_moments(self, layer: int, moments: Moments) -> Found:
        """See `Aim`."""
        return fit_layer_to_gap_from_moments(
            layer, moments, self._gap(layer).ways, self._how(layer)
        )

    def moments(self) -> Moments:
        """See `Aim`."""
        return Moments(self._model.n_ff, gaps=self._model.n_embd)

    def _gap(self, layer: int) -> Gap:
        """That of one layer; the one asked for last is kept."""
        if self._kept is None or self._kept[0] != layer:
            self._kept = None
            metric = reading_metric(self._model, self._sizes, layer)
            gap = Gap(feed_forward(self._model, layer), np.sqrt(metric).astype(np.float32))
            self._kept = layer, gap
        return self._kept[1]


class ResidualAim(GapAim):
    """What is missing of the target's residual stream behind the layer."""

    def part(self, layer: int, chunk: SampleChunk, source: Seen, target: Seen) -> Part:
        """See `Aim`."""
        gap, (x, wanted) = self._gap(layer), self._streams(source, target)
        wanted = wanted + gap.end.added(gap.end.output(target.h))
        tied = ~chunk.neutral
        missing = gap.open(x[tied], source.h[tied], wanted)
        return self._part(gap, chunk, source, np.float32(self._settings.step) * missing)


def _weights(chunk: SampleChunk, neutral_weight: float) -> Floats | None:
    """How often each source row of a chunk counts [N]; None where all count once."""
    if neutral_weight == 1.0:
        return chunk.weights
    weights = np.where(chunk.neutral, neutral_weight, 1.0).astype(np.float32)
    return weights if chunk.weights is None else weights * chunk.weights
