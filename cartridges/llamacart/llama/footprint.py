"""What a llama.cpp context takes, known before it is made.

llama.cpp tells in its log what it has reserved; these are upper estimates of that, so that a plan
can be made. Logits are counted twice, since it keeps them in the graph's buffer and again in the
one that is read. With a large vocabulary they are most of it: a context of 200 sequences of Gemma
reserves 200 rows of 262 144 floats twice, whether anybody asks for logits or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import llama_cpp

from llamacart.values.attention import FLASH_ATTENTION, WITHOUT

if TYPE_CHECKING:
    from llamacart.llama.model import Model

_CELLS_AT_ONCE = 256
"""llama.cpp rounds the number of cells up to a multiple of this."""


def context_bytes(
    model: Model, *, n_ctx: int, n_ubatch: int, n_seq_max: int = 1, n_outputs: int = 1
) -> int:
    """Upper estimate of the bytes that a `Context` of these limits reserves.

    Args:
        model: The model; layers of mixed shapes are counted as the largest.
        n_ctx: KV cells.
        n_ubatch: Most rows computed at once.
        n_seq_max: Sequences.
        n_outputs: Most rows with logits in one decode.
    """
    logits = 4 * model.n_vocab * max(n_outputs, n_seq_max)
    at_the_end = logits + n_ubatch * (12 * model.n_embd + _mask_bytes(n_ctx))
    layers = layers_bytes(model, n_ctx=n_ctx, n_ubatch=n_ubatch)
    return logits + layers.cache + max(layers.rows, at_the_end)


class LayersBytes(NamedTuple):
    """Of `context_bytes`, what a pass touches that ends before logits are computed.

    Attributes:
        cache: The KV cache.
        rows: Rows on their way through a layer.
    """

    cache: int
    rows: int


def layers_bytes(model: Model, *, n_ctx: int, n_ubatch: int) -> LayersBytes:
    """Upper estimates; the arguments are those of `context_bytes`."""
    # Of a row: gate, up and their product, and some copies of the residual stream.
    row = 12 * model.n_ff + 24 * model.n_embd + _mask_bytes(n_ctx) + _score_bytes(model, n_ctx)
    return LayersBytes(_cells(n_ctx) * _cell_bytes(model), n_ubatch * row)


def _cells(n_ctx: int) -> int:
    return -(-n_ctx // _CELLS_AT_ONCE) * _CELLS_AT_ONCE


def _mask_bytes(n_ctx: int) -> int:
    """Those of a row, two of 2 bytes a cell: for all cells and for a sliding window."""
    return 4 * _cells(n_ctx)


def _score_bytes(model: Model, n_ctx: int) -> int:
    """Those of a row whose heads' scores are kept, without flash attention."""
    if model.flash_attention != FLASH_ATTENTION[WITHOUT]:
        return 0
    return 4 * _cells(n_ctx) * int(llama_cpp.llama_model_n_head(model.handle))


def _cell_bytes(model: Model) -> int:
    """Bytes of the keys and values of one cell, at 2 bytes a number."""
    width = model.n_embd // max(1, int(llama_cpp.llama_model_n_head(model.handle)))
    heads = int(llama_cpp.llama_model_n_head_kv(model.handle))
    key, value = (
        max(_number(model, f"attention.{name}{kind}", width) for kind in ("", "_swa"))
        for name in ("key_length", "value_length")
    )
    return 2 * model.n_layer * heads * (key + value)


def _number(model: Model, key: str, otherwise: int) -> int:
    text = model.metadata(f"{model.architecture}.{key}")
    return int(text) if text is not None and text.isdecimal() else otherwise
