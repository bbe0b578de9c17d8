"""The residual stream of a model: its size, and whether the FFN reaches it as `FeedForward` says.

Some architectures scale what a layer adds, run attention and FFN side by side, or put a bias or
a norm between. What is fitted to the residual stream is then fitted to another than the model's, so
that such models are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import UnsupportedModelError
from llamacart.llama.feed_forward import feed_forward
from llamacart.llama.sites import RESIDUAL_OUTPUT
from llamacart.passes.capture import capture, count_rows, forward

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model

TOLERANCE = 0.1
"""Of ‖what a layer adds − what it should add‖ / ‖what it adds‖: rounding of weights and
activations stays far below it."""

_TEXT = "One red fox saw 7 old ships, quietly."
_MAX_TOKENS = 12


def residual_sizes(
    model: Model,
    sequences: Sequence[Sequence[int]],
    rows: NDArray[np.integer],
    *,
    shared: bool = False,
    n_threads: int | None = None,
) -> list[float]:
    """Mean square of the residual stream behind each layer, [L].

    llama.cpp computes the last layer only for rows whose logits are asked for. Here that is the
    last row of each sequence, and the last layer's mean is over those.

    Args:
        model: The model.
        sequences: Token ids, each a sequence of its own from position 0.
        rows: Rows that count, numbered over all sequences; at least one.
        shared: Whether what several sequences begin with is computed once.
        n_threads: Threads for compute.
    """
    counted = np.zeros(count_rows(sequences, shared=shared), np.bool_)
    counted[rows] = True
    sums, counts = np.zeros(model.n_layer), np.zeros(model.n_layer)

    def add(layer: int, seen: NDArray[np.int64], r: NDArray[np.float32]) -> bool:
        kept = r if layer == model.n_layer - 1 else r[counted[seen]]
        sums[layer] += float(np.einsum("ne,ne->", kept, kept, dtype=np.float64))
        counts[layer] += len(kept)
        return True

    layers = range(model.n_layer)
    forward(
        model,
        sequences,
        add,
        layers=layers,
        shared=shared,
        n_threads=n_threads,
        node=RESIDUAL_OUTPUT,
        ends_only=True,
        reads_only=True,
    )
    sizes: list[float] = (sums / counts / model.n_embd).tolist()
    return sizes


def check_residual(
    model: Model, layers: Iterable[int] | None = None, *, n_threads: int | None = None
) -> None:
    """Compare what each layer's FFN adds to the residual stream with its formula.

    Args:
        model: The model.
        layers: Layers to look at; None means all.
        n_threads: Threads for compute.

    Raises:
        UnsupportedModelError: They differ, or the graph or the file lacks what they need.
    """
    wanted = sorted(set(range(model.n_layer) if layers is None else layers))
    tokens = [model.tokenize(_TEXT)[:_MAX_TOKENS]]
    inputs: dict[int, NDArray[np.float32]] = {}
    products: dict[int, NDArray[np.float32]] = {}

    def read(layer: int, _rows: NDArray[np.int64], x: NDArray[np.float32]) -> None:
        inputs[layer] = x.copy()

    def visit(layer: int, _rows: NDArray[np.int64], h: NDArray[np.float32]) -> bool:
        products[layer] = h.copy()
        return True

    beside = (model.residual_input, read)
    forward(
        model, tokens, visit, layers=wanted, n_threads=n_threads, beside=beside, reads_only=True
    )
    outputs = capture(model, tokens, layers=wanted, n_threads=n_threads, node=RESIDUAL_OUTPUT)
    for layer in wanted:
        end = feed_forward(model, layer)
        added = outputs[layer] - inputs[layer]
        missed = float(np.linalg.norm(added - end.added(end.output(products[layer]))))
        if not missed <= TOLERANCE * float(np.linalg.norm(added)):
            raise UnsupportedModelError(
                f"architecture {model.architecture!r} cannot be fitted to its residual stream: "
                f"what layer {layer} adds to it is not its FFN's output",
                param="model",
            )
