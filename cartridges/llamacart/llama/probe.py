"""Whether a model's graph shows the rows that we think, in the order that we think.

What steers or captures follows rows by their place in the batch. Whether it may is a property of
how llama.cpp splits a batch and where it drops rows, so it is tried on each model when it is
loaded, with a few tokens.
"""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING

import llama_cpp
import numpy as np

from llamacart.errors import EngineError
from llamacart.llama import ggml
from llamacart.llama.context import Context
from llamacart.llama.kinds import refusal
from llamacart.llama.tap import Tap
from llamacart.values.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from llamacart.llama.weights import Weights

    Shown = dict[tuple[int, int], NDArray[np.float32]]
    """By layer and batch row, the gated product [D]."""

TOLERANCE = 0.1
"""Of ‖h − h'‖ / ‖h'‖: rounding stays far below it, another row or text far above."""

_TEXT = "One red fox saw 7 old ships, quietly."
_LENGTHS = (3, 2)
_UBATCH = 3
# Sequence and position of each row. llama.cpp's split into sequences, and that into equal shares of
# sequences, put them into another order.
_TOGETHER = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2))
_OUTPUTS = (1, 3)


def check_rows(model: Weights) -> float:
    """Compare the rows of two interleaved sequences with those of each sequence alone.

    Returns:
        The largest difference between a row there and alone, as a share of its length.

    Raises:
        UnsupportedModelError: They differ, so that steering would reach other rows than it should.
    """
    try:
        first, alone, together = _runs(model)
    except EngineError as error:
        raise refusal(model.architecture, error.message) from error
    worst = 0.0
    for layer in range(model.n_layer):
        node = f"{model.site_node}-{layer}"
        if not _distance(alone[0].get((layer, 0)), first[layer, 0]) <= TOLERANCE:
            raise refusal(model.architecture, f"tokens behind a token change it, in {node}")
        rows = _OUTPUTS if layer == model.n_layer - 1 else range(len(_TOGETHER))
        for row in rows:
            sequence, position = _TOGETHER[row]
            distance = _distance(together.get((layer, row)), alone[sequence][layer, position])
            if not distance <= TOLERANCE:
                raise refusal(
                    model.architecture,
                    f"with two sequences in a batch, row {row} of {node} is not what token "
                    f"{position} of sequence {sequence} is alone",
                )
            worst = max(worst, distance)
    return worst


def _runs(model: Weights) -> tuple[Shown, list[Shown], Shown]:
    """What is shown of the first token alone, of each sequence alone, and of both together."""
    texts = _texts(model)
    last_layer = model.n_layer - 1
    shown: Shown = {}
    stop_early = True

    def visit(layer: int, rows: NDArray[np.int64], h: NDArray[np.float32]) -> bool:
        if len(rows) != len(h):
            raise EngineError(f"layer {layer} has {len(h)} rows where {len(rows)} were expected")
        shown.update({(layer, int(row)): h[i].copy() for i, row in enumerate(rows)})
        return not (stop_early and layer == last_layer)  # nobody reads the logits

    # On one thread: more would leave an OpenMP team to this thread, and with more threads than
    # processors in the process libgomp stops spinning at barriers: decoding gets slower.
    with Context(
        model,
        n_ctx=32,
        n_batch=len(_TOGETHER),
        n_ubatch=_UBATCH,
        n_seq_max=len(_LENGTHS),
        n_threads=1,
        hook=Tap(model, visit, reads_only=True),
    ) as context:
        # Both would end the process below.
        if not llama_cpp.llama_get_memory(context.handle):
            raise EngineError("it keeps no keys and values: it embeds texts and generates none")
        if not _is_causal(context):
            raise EngineError("its attention looks ahead, as an embedding model's")

        def run(places: Sequence[tuple[int, int]], outputs: Collection[int]) -> Shown:
            shown.clear()
            context.clear()
            context.decode(
                Batch(
                    tokens=[texts[sequence][position] for sequence, position in places],
                    positions=[position for _, position in places],
                    sequences=[sequence for sequence, _ in places],
                    outputs=[row in outputs for row in range(len(places))],
                )
            )
            return dict(shown)

        first = run([(0, 0)], [0])
        alone = [
            run([(sequence, position) for position in range(n)], range(n))
            for sequence, n in enumerate(_LENGTHS)
        ]
        stop_early = False  # it would leave out the second ubatch
        return first, alone, run(_TOGETHER, _OUTPUTS)


def _is_causal(context: Context) -> bool:
    function = ggml.library().llama_get_causal_attn
    function.restype, function.argtypes = ctypes.c_bool, [ctypes.c_void_p]
    return bool(function(context.handle))


def _texts(model: Weights) -> list[list[int]]:
    """Sequences of tokens that all differ."""
    tokens = list(dict.fromkeys(model.tokenize(_TEXT, add_special=False)))
    if len(tokens) < sum(_LENGTHS):
        tokens = list(range(model.n_vocab))
    return [tokens[: _LENGTHS[0]], tokens[_LENGTHS[0] : sum(_LENGTHS)]]


def _distance(h: NDArray[np.float32] | None, expected: NDArray[np.float32]) -> float:
    """‖h − h'‖ / ‖h'‖; NaN, which is no distance, where there is no h or a NaN in it."""
    if h is None:
        return math.nan
    distance, length = float(np.linalg.norm(h - expected)), float(np.linalg.norm(expected))
    return distance / length if length else distance
