"""A static control vector on the residual stream: the outside baseline for cartridges.

Where a cartridge moves chosen neurons as far as their input asks, a control vector adds one and
the same direction to every row of a layer's output: h ← h + α v_l. It is llama.cpp's own adapter
(`llama_set_adapter_cvec`), which acts on layers 1 to L − 1 and on all rows of a context.

Source: contrastive activation addition, Rimsky et al. (2024), arXiv:2312.06681; the addition to
the residual stream is ActAdd, Turner et al. (2023), arXiv:2308.10248.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import llama_cpp
import numpy as np

from llamacart.cartridge import check_alpha
from llamacart.errors import EngineError, InputError
from llamacart.llama.context import Context
from llamacart.llama.sites import RESIDUAL_OUTPUT
from llamacart.llama.tap import Tap
from llamacart.passes.batching import ROWS_PER_DECODE, as_batch, fillings, rows_of
from llamacart.passes.lora import LoraAdapter
from llamacart.passes.watching import computed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model


@dataclass(frozen=True)
class ControlVector:
    """Directions on the residual stream.

    Attributes:
        directions: float32 [L, n_embd]; a layer of zeros is left alone, and so is layer 0, which
            llama.cpp cannot steer.
        name: For tables.
    """

    directions: NDArray[np.float32]
    name: str = "control-vector"


@dataclass(frozen=True)
class ControlDose:
    """A control vector at one strength α."""

    vector: ControlVector
    alpha: float


Control = ControlDose | LoraAdapter
"""What llama.cpp itself adds to all rows of a context: a control vector or a LoRA."""


def apply_control(context: Context, dose: Control | None) -> None:
    """Let `dose` act on all rows that `context` decodes from now on; None ends a control vector.

    Raises:
        AlphaError: α is not finite or beyond ±10.
        InputError: The vector's shape is not the model's.
        EngineError: llama.cpp refuses it.
    """
    model = context.model
    if isinstance(dose, LoraAdapter):
        dose.apply(context)
        return
    if dose is None:
        llama_cpp.llama_set_adapter_cvec(context.handle, None, 0, model.n_embd, -1, -1)
        return
    shape = (model.n_layer, model.n_embd)
    if dose.vector.directions.shape != shape:
        raise InputError(
            f"control vector {dose.vector.name!r} has shape {dose.vector.directions.shape}; the "
            f"model's is {shape}"
        )
    scaled = dose.vector.directions[1:] * np.float32(check_alpha(dose.alpha))
    data = np.ascontiguousarray(scaled, np.float32)
    if not np.isfinite(data).all():
        raise InputError(f"control vector {dose.vector.name!r} is not finite")
    pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    status = llama_cpp.llama_set_adapter_cvec(
        context.handle, pointer, data.size, model.n_embd, 1, model.n_layer - 1
    )
    if status != 0:
        raise EngineError(f"llama.cpp refuses control vector {dose.vector.name!r} ({status})")


def residual_means(
    model: Model,
    sequences: Sequence[Sequence[int]],
    rows: Sequence[Sequence[int]] | None = None,
    *,
    skip: int = 1,
    n_threads: int | None = None,
) -> NDArray[np.float64]:
    """Mean output of each layer over all rows of all sequences, or over some, [L, n_embd].

    llama.cpp computes the last layer only for rows whose logits are asked for. Here that is the
    last row of each sequence that counts, and the last layer's mean is over those.

    Args:
        model: The model.
        sequences: Token ids, each a sequence of its own from position 0.
        rows: For each sequence those of its rows that count; None for all behind the first.
        skip: Rows at the beginning of each sequence that do not count: the first (BOS) holds no
            text and is hundreds of times longer than the others.
        n_threads: Threads for compute.

    Raises:
        InputError: A sequence has no row that counts.
    """
    if rows is None:
        rows = [range(skip, len(sequence)) for sequence in sequences]
    wanted = [frozenset(row for row in own if row >= skip) for own in rows]
    short = [n for n, own in enumerate(wanted) if not own]
    if short or not sequences:
        raise InputError(f"sequence {short[0] if short else 0} has no row after the first {skip}")
    sums = np.zeros((model.n_layer, model.n_embd), np.float64)
    counts = np.zeros(model.n_layer, np.int64)
    counted = np.zeros(0, bool)

    def add(layer: int, rows: NDArray[np.int64], h: NDArray[np.float32]) -> bool:
        kept = h[counted[rows]]
        sums[layer] += kept.sum(axis=0, dtype=np.float64)
        counts[layer] += len(kept)
        return True

    n_rows = max(ROWS_PER_DECODE, *map(len, sequences))
    runs = list(fillings(sequences, n_rows))
    together = max(map(len, runs))
    with Context(
        model,
        n_ctx=n_rows,
        n_batch=n_rows,
        # llama.cpp reserves n_vocab floats for each, twice.
        n_seq_max=together,
        n_outputs=together,
        n_threads=n_threads,
        hook=Tap(model, add, node=RESIDUAL_OUTPUT, reads_only=True, lags=True),
    ) as context:
        for run in runs:
            context.clear()
            given = rows_of(sequences, run, lambda s, i: i == max(wanted[s]))
            counted = np.array([row.position in wanted[row.sequence] for row in given])
            context.decode(as_batch(given, run.start))
            computed(len(given))
    return sums / counts[:, None]


def fit_control_vector(
    model: Model,
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    source_rows: Sequence[Sequence[int]] | None = None,
    target_rows: Sequence[Sequence[int]] | None = None,
    layers: Iterable[int] | None = None,
    name: str = "control-vector",
    n_threads: int | None = None,
) -> ControlVector:
    """v_l = mean(target) − mean(source) of the residual stream; the texts need not be paired.

    A layer's output holds what the layers before it wrote. To steer all layers by the whole
    difference would count it many times over, so each layer gets only what it adds itself:
    v_l − v_{l−1} of the layer chosen before it. At α = 1 the steps then sum to the difference at
    the last chosen layer.

    Args:
        model: The model.
        sources: Token ids of the texts in the model's own manner.
        targets: Token ids of the texts as they are wanted.
        source_rows: For each source those of its rows that count; None for all behind the first.
        target_rows: The same of the targets.
        layers: Layers to steer; None means 1 to L − 2 (the last layer is seen at the last row of
            each text alone).
        name: For tables.
        n_threads: Threads for compute.

    Raises:
        InputError: A layer is not among 1 to L − 1, or a text is too short.
    """
    chosen = sorted(set(range(1, max(2, model.n_layer - 1)) if layers is None else layers))
    for layer in chosen:
        if not 1 <= layer < model.n_layer:
            raise InputError(
                f"a control vector at layer {layer} was asked for; llama.cpp steers 1 to "
                f"{model.n_layer - 1}"
            )
    wanted = residual_means(model, targets, target_rows, n_threads=n_threads)
    difference = wanted - residual_means(model, sources, source_rows, n_threads=n_threads)
    directions = np.zeros_like(difference, np.float32)
    if chosen:
        steps = np.diff(difference[chosen], axis=0, prepend=np.zeros((1, model.n_embd)))
        directions[chosen] = steps
    return ControlVector(directions, name)
