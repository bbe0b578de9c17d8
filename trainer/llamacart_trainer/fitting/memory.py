"""What a fit takes of memory, known before it begins, and which way through the layers that leaves.

It counts what llama.cpp reserves for each lane or pass (see `llama.footprint`), the rows that
a layer is fitted on with the copies that a fit makes of them and the matrices that it solves with,
or the sums in their place. The process itself comes on top, with the model's weights: the plan says
so, but they are not among the bytes that are allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacart.machine.memory import resident_memory
from llamacart.machine.processors import choose_threads
from llamacart.passes.capture import forward_bytes, output_budget
from llamacart.passes.lane import lane_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart.llama.model import Model
    from llamacart_trainer.fitting.chunks import SampleChunk
    from llamacart_trainer.fitting.settings import FitSettings

ROW_COPIES = 2
"""A layer's rows, those of them that differ, and those as lengths."""

CHUNK_COPIES = 5
"""Rows of a chunk that are summed up, with what is centred and joined of them."""

STEP_BYTES = 20
"""Bytes of each number of the steps [N, K] at the chosen neurons, where gaps are closed: as they
are wanted, centred, taken, and what of them is missed."""

SQUARES = 11
"""Matrices [D, D] of 8 bytes that sums over rows take while two of them are joined. Three kinds of
matrices share in them alike; where gaps are summed up, two of the kinds are smaller."""

NEUTRAL_SQUARES = 6
"""Those that neutral rows add, whose sums are kept apart."""

PROCESS_BYTES = 200 * 2**20
"""Python with the libraries that a fit uses."""

SOLVED_BYTES = 12
"""Bytes of each number of the matrix that a fit from rows factors: as it is multiplied out, and in
float64."""

ROUNDED_BYTES = 12
"""Those of each number of the scatter [D, D] that rounding looks at: as it is multiplied out, and
its factor while and after it is turned round."""

SPLIT_BYTES = 40
"""Those of the matrix that is taken apart into eigenvalues where λ is chosen."""

WAY_BYTES = 24
"""Bytes of each number of an FFN's down projection [E, D], where gaps are closed through it: as it
is, in the gap's units, and in float64 while neurons are chosen."""


@dataclass(frozen=True)
class MemoryPlan:
    """How chunks go through the layers.

    Attributes:
        lanes: Bytes of all lanes while some compute and the others stand; 0 where chunks stream
            past.
        one_pass: Most bytes of a pass of one chunk, as streamed layers have them.
        held: Bytes of rows or of their sums.
        gathers: Rows are held, not their sums.
        side_by_side: All chunks run at once, each in two lanes.
        with_last: The last layer is among those that do.
        limit: Bytes that were allowed.
        process: Bytes of the process besides, with those of the model that are in host memory.
    """

    lanes: int
    one_pass: int
    held: int
    gathers: bool
    side_by_side: bool
    with_last: bool
    limit: int
    process: int = 0

    @property
    def total(self) -> int:
        """Bytes at most."""
        return self.held + max(self.lanes, self.one_pass)

    @property
    def peak(self) -> int:
        """Bytes at most of the whole process."""
        return self.total + self.process

    def __str__(self) -> str:
        way = "all texts at once" if self.side_by_side else "texts one after the other, each layer"
        text = f"{way}, {gib(self.total)} of {gib(self.limit)} GiB, "
        text += f"{gib(self.peak)} with the model"
        return text if self.total <= self.limit else f"{text}; there is no way that takes less"


def gib(n_bytes: int) -> str:
    """Bytes in GiB, for messages."""
    return f"{n_bytes / 2**30:.2f}"


def plan_memory(
    model: Model,
    chunks: Sequence[SampleChunk],
    limit: int,
    settings: FitSettings,
    *,
    last: bool = True,
    n_threads: int | None = None,
) -> MemoryPlan:
    """The quickest way through the layers that stays within the limit.

    Args:
        model: The model.
        chunks: All samples.
        limit: Bytes; where no way stays within them, it is the one that takes the least.
        settings: How each layer is fitted.
        last: Whether the last layer is to be fitted.
        n_threads: As many lanes compute at once at most; None means the processors.
    """
    to_gap = settings.closes_gap
    # llama.cpp may hold some weights twice, in its file and in an order that its kernels like more.
    process = PROCESS_BYTES + (0 if model.uses_device else model.n_bytes)
    process = max(process, resident_memory())
    layers = range(model.n_layer - 1)
    n_rows = sum(chunk.n_rows for chunk in chunks)
    gathers = gathers_rows(model, chunks, limit, to_gap=to_gap)
    if gathers:
        held = _row_bytes(model, chunks, to_gap=to_gap) * ROW_COPIES
        held += _solver_bytes(model, chunks, settings)
    else:
        held = _sum_bytes(model, chunks, to_gap=to_gap)
    if to_gap:
        held += WAY_BYTES * model.n_embd * model.n_ff
        n_steps = sum(chunk.n_fitted for chunk in chunks) if gathers else 0
        held += STEP_BYTES * n_steps * min(settings.neurons, model.n_ff)
    passed = range(model.n_layer) if last else layers
    streamed = max((_pass_bytes(model, chunk, passed) for chunk in chunks), default=0)
    for with_last in (True, False):
        if with_last and (not last or n_rows > output_budget(model)):
            continue
        stops = range(model.n_layer) if with_last else layers
        lanes = _lanes_bytes(model, chunks, stops, choose_threads(n_threads))
        # A last layer that is left out streams past once the lanes are closed.
        after = 0 if with_last or not last else streamed
        if layers and held + max(lanes, after) <= limit:
            return MemoryPlan(lanes, after, held, gathers, True, with_last, limit, process)
    return MemoryPlan(0, streamed, held, gathers, False, False, limit, process)


def gathers_rows(
    model: Model, chunks: Sequence[SampleChunk], limit: int, *, to_gap: bool = False
) -> bool:
    """Whether rows are held: they are few, or their sums would take more."""
    rows = _row_bytes(model, chunks, to_gap=to_gap)
    return rows <= limit // 4 or rows * ROW_COPIES <= _sum_bytes(model, chunks, to_gap=to_gap)


def _row_bytes(model: Model, chunks: Sequence[SampleChunk], *, to_gap: bool) -> int:
    """X [N, D] and y [M, D], or gaps [n, E] with the residual streams that they come from."""
    n_x = sum(chunk.n_fitted for chunk in chunks)
    n_y = sum(len(chunk.target_rows) for chunk in chunks)
    return 4 * (n_x * model.n_ff + n_y * (3 * model.n_embd if to_gap else model.n_ff))


def _solver_bytes(model: Model, chunks: Sequence[SampleChunk], settings: FitSettings) -> int:
    """The largest matrices that a fit from rows has at the same time; see `layer.LayerFit`."""
    n_rows = sum(chunk.n_fitted for chunk in chunks)
    smaller = min(n_rows, model.n_ff)
    factored = SPLIT_BYTES if settings.penalty == "auto" else SOLVED_BYTES
    rounded = 0 if settings.storage == "q8_0" else ROUNDED_BYTES * model.n_ff**2
    # Fewer rows than D are centred all at once, and in float64 where λ is chosen by folds.
    centred = (12 if settings.penalty == "auto" else 4) * n_rows * model.n_ff
    return max(factored * smaller**2, rounded) + (centred if n_rows < model.n_ff else 0)


def _sum_bytes(model: Model, chunks: Sequence[SampleChunk], *, to_gap: bool) -> int:
    neutral = any(part.neutral.any() for chunk in chunks for part in chunk.parts)
    largest = max((_row_bytes(model, [chunk], to_gap=to_gap) for chunk in chunks), default=0)
    squares = SQUARES + (NEUTRAL_SQUARES if neutral else 0)
    width, aimed = model.n_ff, model.n_embd if to_gap else model.n_ff
    numbers = (width**2 + width * aimed + aimed**2) * squares // 3
    return 8 * numbers + CHUNK_COPIES * largest


def _lanes_bytes(model: Model, chunks: Sequence[SampleChunk], stops: range, width: int) -> int:
    """All lanes, of which `width` compute."""
    lanes = [
        lane_bytes(model, side.texts, stops, shared=True)
        for chunk in chunks
        for side in (chunk.source, chunk.target)
        if side.texts
    ]
    waking = sorted((lane.awake - lane.asleep for lane in lanes), reverse=True)
    return sum(lane.asleep for lane in lanes) + sum(waking[:width])


def _pass_bytes(model: Model, chunk: SampleChunk, layers: range) -> int:
    """A pass over either side of a chunk, with all its activations at one layer."""
    row = 8 * (model.n_ff + model.n_embd)
    return max(
        forward_bytes(model, side.texts, layers, shared=True) + row * side.n_rows
        for side in (chunk.source, chunk.target)
        if side.texts
    )
