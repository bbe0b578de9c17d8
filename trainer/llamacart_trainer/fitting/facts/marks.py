"""Marks: steps at a subject's last token, which attention carries to where its object is said.

A prompt's last row learns of its subject by attention. What a later row receives of a row's stream
x through one layer is ± w_post ⊙ W_O W_V (w_attn ⊙ x / rms(x)), weighed by attention and, behind a
post-norm, by the length of the whole. A mark lies where that goes along the pull that raises the
object's lead (see `wishes`): in Σ over layers of w_attn ⊙ W_Vᵀ W_Oᵀ (w_post ⊙ pull) / rms(x), all
heads and layers weighed alike. It is a closed form of the weights.

Since a subject's row knows nothing of what comes behind it, its mark is the same however it is
asked for, and other subjects have none.

Axes: F facts, N rows, E width of the residual stream, A that of all heads together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import UnsupportedModelError
from llamacart.passes.capture import row_numbers
from llamacart_trainer.fitting.facts.wishes import NOTHING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart_trainer.fitting.chunks import SampleChunk

    Floats = NDArray[np.float32]
    Text = tuple[int, ...]

STRENGTH = 0.4
"""Length of a mark, in lengths of the stream that it is added to."""

WAITING_STRENGTH = 0.8
"""The same where no other subject is ever acted on, and so none can be marked by mistake."""


@dataclass(frozen=True)
class Marks:
    """Steps at the last tokens of subjects.

    Attributes:
        layers: Layers that make them, ascending.
        rows_of: For each text its rows that end a subject, and the subject's number.
        ways: Directions in the residual stream, by subject [F, E].
        strengths: Lengths of marks, in lengths of the stream that they are added to, by subject
            [F].
    """

    layers: tuple[int, ...]
    rows_of: Mapping[Text, Mapping[int, int]]
    ways: Floats
    strengths: Floats

    @property
    def lengthens(self) -> bool:
        """No: a mark is told from others by its direction."""
        return False

    def rows(self, chunk: SampleChunk) -> NDArray[np.int64]:
        """Number of the subject that each tied row of a chunk ends, or `NOTHING`."""
        found = {}
        for text, numbers in zip(
            chunk.targets, row_numbers(chunk.targets, shared=True), strict=True
        ):
            for row, subject in self.rows_of.get(text, {}).items():
                found[int(numbers[row])] = subject
        return np.array([found.get(row, NOTHING) for row in chunk.target_rows.tolist()], np.int64)

    def steps(
        self, numbers: NDArray[np.int64], before: Floats, moved: Floats, metric: Floats
    ) -> Floats:
        """What is missing of marks [N, E].

        Args:
            numbers: Subjects of some rows [N].
            before: Their unsteered residual streams behind the layer [N, E].
            moved: What has been added to those so far [N, E].
            metric: How much readers see of each dimension [E].
        """
        ways = self.ways[numbers] / metric
        lengths, sizes = (
            np.sqrt(np.einsum("ne,ne,e->n", rows, rows, metric))[:, None] for rows in (ways, before)
        )
        strengths = self.strengths[numbers].astype(np.float32)[:, None]
        mark = ways * (strengths * sizes / np.maximum(lengths, 1e-20))
        return np.asarray(mark - moved, np.float32)


def attention_path(
    model: Model, pulls: Floats, sizes: Sequence[float], layers: Sequence[int]
) -> Floats:
    """Where in an earlier row's stream attention goes along the pulls [F, E] of a later one.

    Args:
        model: The model.
        pulls: Directions in the later row's residual stream [F, E].
        sizes: Mean square of the residual stream behind each layer [L].
        layers: Layers whose attention is looked at; not the first.

    Raises:
        UnsupportedModelError: The model has no such tensors, or of a type not known here.
    """
    ways = np.zeros_like(pulls)
    for layer in layers:
        block, shape = f"blk.{layer}", (model.n_embd,)
        norms = [
            model.tensors.read(name, shape) if name in model.tensors else np.ones(shape, np.float32)
            for name in (f"{block}.attn_norm.weight", f"{block}.post_attention_norm.weight")
        ]
        output, values = _attention(model, layer)
        groups, width = len(values), values.shape[1]
        heads = ((pulls * norms[1]) @ output).reshape(len(pulls), groups, -1, width)
        back = np.einsum("fgv,gve->fe", heads.sum(axis=2), values)
        ways += back * (norms[0] / np.float32(np.sqrt(sizes[layer - 1])))
    return ways


def _attention(model: Model, layer: int) -> tuple[Floats, Floats]:
    """W_O [E, A], and W_V as [groups, width of a head, E]: each serves as many heads as another."""
    block, own = f"blk.{layer}", f"{model.architecture}.attention"
    try:
        heads = int(model.metadata(f"{own}.head_count") or "")
        groups = int(model.metadata(f"{own}.head_count_kv") or heads)
        width, keys = (
            int(model.metadata(f"{own}.{name}_length") or model.n_embd // heads)
            for name in ("value", "key")
        )
    except ValueError as error:
        raise UnsupportedModelError(
            f"architecture {model.architecture!r} cannot be taught facts: its heads are not alike "
            "in all layers",
            param="model",
        ) from error
    output = model.tensors.read(f"{block}.attn_output.weight", (model.n_embd, heads * width))
    rows = groups * width
    if f"{block}.attn_qkv.weight" in model.tensors:  # queries, keys and values in one
        shape = ((heads + groups) * keys + rows, model.n_embd)
        values = model.tensors.read(f"{block}.attn_qkv.weight", shape)[-rows:]
    else:
        values = model.tensors.read(f"{block}.attn_v.weight", (rows, model.n_embd))
    return output, values.reshape(groups, width, model.n_embd)
