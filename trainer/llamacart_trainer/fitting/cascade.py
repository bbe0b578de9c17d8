"""The cascade: layer l is fitted on activations that layers 0..l-1 already distort.

Side by side: the samples are split into chunks, and each chunk's texts run in a lane of their own
that stops at layer l until all others are there. Then the layer is fitted, its step taken in every
lane, and all go on: one forward pass for the whole cascade, however many rows there are. Targets
run along in unsteered lanes, so that theirs are never stored for more than one layer.

Each lane keeps the memory of one ubatch. Where that is more than is allowed, the chunks stream
past once for each layer instead, one at a time. Both ways see the same activations.

llama.cpp keeps only the last layer's rows whose logits are asked for, at n_vocab floats each. The
last layer is therefore fitted in the same pass only where that is affordable, and by one streamed
pass otherwise. What is affordable is counted in `llamacart_trainer.fitting.memory`.

llama.cpp's threads belong to the thread that decodes, so that each lane has its own. Lanes share
out the processors: few threads each, and several lanes computing at the same time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import RecipeError
from llamacart.machine.blas import threads_for_products
from llamacart.machine.memory import default_memory
from llamacart.machine.processors import choose_threads
from llamacart.passes.lane import lane_threads
from llamacart.values.steering import DenseMap
from llamacart_trainer.fitting.aim import CopyAim, Part, ResidualAim
from llamacart_trainer.fitting.chunks import neutral_weight
from llamacart_trainer.fitting.facts.aim import ObjectAim
from llamacart_trainer.fitting.job import NO_JOB
from llamacart_trainer.fitting.memory import gathers_rows, plan_memory
from llamacart_trainer.fitting.rows.rooms import NO_ROOMS, Rooms, count, share_out
from llamacart_trainer.fitting.sight import Lanes, Seen, see

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from llamacart.cartridge import LayerMap
    from llamacart.llama.model import Model
    from llamacart_trainer.fitting.aim import Aim
    from llamacart_trainer.fitting.chunks import SampleChunk
    from llamacart_trainer.fitting.facts.aim import Stage
    from llamacart_trainer.fitting.job import Job, NoJob
    from llamacart_trainer.fitting.memory import MemoryPlan
    from llamacart_trainer.fitting.moments import Moments
    from llamacart_trainer.fitting.settings import FitSettings, LayerReport

    Floats = NDArray[np.float32]

MAX_UBATCH_ROWS = 1024
"""Rows that run at once; more gain nothing, since each attends to the cells of all."""

STEP_ROWS = 128
"""Rows of one product. BLAS rounds products of other shapes differently, and a row's step should
not depend on the chunk that it is in."""


@dataclass
class Cascade:
    """Fits every layer of one model in turn.

    Args:
        model: The model.
        settings: How each layer is fitted.
        layers: Layers to fit, ascending; the others are left as they are.
        paired: Whether the chunks' rows are tied one to one.
        job: Keeps what is done, and knows what was done before.
        on_layer: Called with each layer's figures, for progress.
        on_plan: Called with the way chosen for the layers that are left.
        max_memory: Bytes that activations may take; above it the chunks stream past, and above
            a quarter of it rows are summed up instead of gathered.
        n_threads: Threads for llama.cpp, shared by the lanes that run at the same time.
        stages: What layers do that teach facts; none where they copy another text.

    Attributes:
        maps: By layer, what was fitted; layers without active neurons are absent.
        reports: Figures of each layer so far.
        restored: Layers among them that the job knew.
        seconds: Wall time of the fits alone.
    """

    model: Model
    settings: FitSettings
    layers: Sequence[int]
    paired: bool = True
    job: Job | NoJob = NO_JOB
    on_layer: Callable[[LayerReport], None] = lambda _report: None
    on_plan: Callable[[MemoryPlan], None] = lambda _plan: None
    max_memory: int = field(default_factory=default_memory)
    n_threads: int | None = None
    stages: Sequence[Stage] = ()
    maps: dict[int, LayerMap] = field(default_factory=dict)
    reports: list[LayerReport] = field(default_factory=list)
    restored: int = 0
    seconds: float = 0.0
    _aim: Aim = field(init=False, repr=False)
    _dense: dict[int, DenseMap] = field(default_factory=dict, init=False, repr=False)

    def run(self, chunks: Sequence[SampleChunk]) -> None:
        """Fit all layers that are left on the same samples."""
        self._restore()
        left = self._left
        last = self.model.n_layer - 1
        if not left:
            return
        self._find_aim(chunks)
        plan = self._plan(chunks, last=last in left)
        together = [layer for layer in left if layer < last or plan.with_last]
        if plan.side_by_side and together:
            self._fit_side_by_side(chunks, together)
        else:
            together = []
        for layer in left[len(together) :]:
            self._fit_streamed(chunks, layer)

    def run_anew(self, chunks_for: Callable[[dict[int, LayerMap]], Sequence[SampleChunk]]) -> None:
        """Fit all layers that are left, each on samples made under the layers before it."""
        self._restore()
        for layer in self._left:
            chunks = chunks_for(self.maps)
            self._find_aim(chunks)
            last = layer == self.model.n_layer - 1
            if not last and self._plan(chunks, last=False).side_by_side:
                self._fit_side_by_side(chunks, [layer])
            else:
                self._fit_streamed(chunks, layer)

    @property
    def _left(self) -> list[int]:
        done = {report.layer for report in self.reports}
        return [layer for layer in self.layers if layer not in done]

    def _find_aim(self, chunks: Sequence[SampleChunk]) -> None:
        """Say what layers are fitted to on these samples."""
        weight = neutral_weight(chunks, self.settings)
        if not self.settings.closes_gap:
            self._aim = CopyAim(self.model, self.settings, weight, paired=self.paired)
            return
        taught = next((chunk for chunk in chunks if len(chunk.target_rows)), None)
        if taught is None:
            raise RecipeError("no row is tied but the first of a text, which counts for no gap")
        own = self.model, self.settings, weight, self.layers, taught
        if self.stages:
            self._aim = ObjectAim(*own, self.stages, self.n_threads)
        else:
            self._aim = ResidualAim(*own, self.n_threads)

    def _restore(self) -> None:
        """Take over the layers that the job has finished; later ones would rest on a gap."""
        for layer in self.layers:
            found = self.job.layer(layer)
            if found is None:
                break
            self._keep(layer, *found)
            self.restored += 1

    # --- side by side -----------------------------------------------------------------------

    def _plan(self, chunks: Sequence[SampleChunk], *, last: bool) -> MemoryPlan:
        plan = plan_memory(
            self.model,
            chunks,
            self.max_memory,
            self.settings,
            last=last,
            n_threads=self.n_threads,
        )
        self.on_plan(plan)
        return plan

    def _fit_side_by_side(self, chunks: Sequence[SampleChunk], layers: Sequence[int]) -> None:
        """One pass for `layers`, with the maps of earlier ones acting."""
        n_threads = choose_threads(self.n_threads)
        each = lane_threads(2 * len(chunks), n_threads)
        stops = sorted({*self.maps, *layers})
        lanes = partial(Lanes, self.model, n_threads=each, beside=self._aim.beside)
        rooms = self._rooms(chunks)
        own = share_out(chunks, rooms)
        with (
            lanes([chunk.source for chunk in chunks], stops, rooms=own[0]) as sources,
            lanes(
                [chunk.target for chunk in chunks], layers, rooms=own[1], reads_only=True
            ) as targets,
        ):
            for layer in stops:
                fitted = layer in layers
                Lanes.advance([sources, targets] if fitted else [sources], n_threads // each)
                if fitted:
                    parts = (
                        self._parts(layer, chunk, sources.seen(number)[0], targets.seen(number))
                        for number, chunk in enumerate(chunks)
                    )
                    self._fit(layer, chunks, parts, rooms=rooms)
                sources.steer(layer, self._steer)

    def _rooms(self, chunks: Sequence[SampleChunk]) -> Rooms:
        """Room for the rows of one layer after the other; none where they are summed up."""
        if not self._gathers(chunks):
            return NO_ROOMS
        counts, width = count(chunks), self.model.n_ff
        x = np.empty((counts.steered + counts.untouched, width), np.float32)
        return Rooms(x, np.empty((counts.aims, width), np.float32) if self._aim.copies else None)

    def _gathers(self, chunks: Sequence[SampleChunk]) -> bool:
        to_gap = self.settings.closes_gap
        return gathers_rows(self.model, chunks, self.max_memory, to_gap=to_gap)

    # --- streamed ---------------------------------------------------------------------------

    def _fit_streamed(self, chunks: Sequence[SampleChunk], layer: int) -> None:
        """One pass for one layer, a chunk at a time."""
        done, moments = self.job.moments(layer)
        before = [seen for seen in self.maps if seen < layer]
        look = partial(see, self.model, beside=self._aim.beside, n_threads=self.n_threads)
        parts = (
            self._parts(
                layer,
                chunk,
                look(chunk.source, layer, before=before, steer=self._steer)[0],
                look(chunk.target, layer),
            )
            for chunk in chunks[done:]
        )
        self._fit(layer, chunks, parts, done, moments)

    # --- one layer --------------------------------------------------------------------------

    def _parts(
        self, layer: int, chunk: SampleChunk, source: Seen, target: tuple[Seen, Seen]
    ) -> list[Part]:
        """What a chunk gives: its own part, and one of what is untouched."""
        aimed, untouched = target
        parts = [self._aim.part(layer, chunk, source, aimed)]
        if chunk.untouched is not None:
            nothing = Seen.nothing(self.model, self._aim.beside)
            own = self._aim.part(layer, chunk.untouched, untouched, nothing)
            parts.append(own._replace(untouched=True))
        return parts

    def _fit(
        self,
        layer: int,
        chunks: Sequence[SampleChunk],
        parts: Iterable[list[Part]],
        done: int | None = None,
        moments: Moments | None = None,
        rooms: Rooms = NO_ROOMS,
    ) -> None:
        """Fit a layer on the rows of `parts`.

        Args:
            layer: Index.
            chunks: All samples.
            parts: What each chunk gives.
            done: Chunks that `moments` has seen and `parts` leaves out; None where sums are not
                worth keeping, since another run would not find the rest without them.
            moments: Sums over those.
            rooms: Where lanes have put their rows.
        """
        if self._gathers(chunks):
            rows = Part.joined(chain.from_iterable(parts), count(chunks), rooms)
            groups = np.concatenate(
                [
                    *(chunk.groups for chunk in chunks),
                    *(own.groups for chunk in chunks for own in chunk.parts[1:]),
                ]
            )
            since = time.perf_counter()
            with threads_for_products(choose_threads(self.n_threads)):
                found = self._aim.fit(layer, rows, groups)
        else:
            moments = moments or self._aim.moments()
            for number, own in enumerate(parts, start=(done or 0) + 1):
                for part in own:
                    moments.add(part.x, part.aims, part.neutral, part.weights)
                if done is not None:
                    self.job.save_moments(layer, number, moments)
            since = time.perf_counter()
            found = self._aim.fit_from_moments(layer, moments)
        self.seconds += time.perf_counter() - since
        self.job.save(layer, *found)
        self._keep(layer, *found)

    def _keep(self, layer: int, layer_map: LayerMap | None, report: LayerReport) -> None:
        if layer_map is not None:
            self.maps[layer] = layer_map
        self.reports.append(report)
        self.on_layer(report)

    def _steer(self, layer: int, h: Floats) -> None:
        """Apply the fitted map at α = 1 with the rounded weights that will act at run time."""
        layer_map = self.maps.get(layer)
        if layer_map is None:
            return
        dense = self._dense.get(layer)
        if dense is None:  # lanes ask at the same time, and find the same
            dense = DenseMap.of(layer_map, h.shape[1])
            self._dense = {layer: dense}
        for start in range(0, len(h), STEP_ROWS):
            part = h[start : start + STEP_ROWS]
            rows = part
            if len(part) < STEP_ROWS:
                rows = np.zeros((STEP_ROWS, h.shape[1]), np.float32)
                rows[: len(part)] = part
            part[:, dense.neurons] += dense.step(rows)[: len(part)]
