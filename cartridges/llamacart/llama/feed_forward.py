"""How a layer's gated product reaches the residual stream.

Axes: N rows, D FFN width, E width of the residual stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart.llama.weights import Weights

    Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FeedForward:
    """The end of one layer's FFN: r = x + D h, or r = x + w ⊙ y / rms(y) with y = D h.

    Attributes:
        down: D [E, D], dequantised, times what the model scales it by (Granite, MiniCPM).
        norm: w [E], the weight of the norm behind it (Gemma 2 and 3, OLMo 2); None where the
            model has none.
        epsilon: What the norm adds to the mean square.
    """

    down: Floats
    norm: Floats | None = None
    epsilon: float = 0.0

    def output(self, h: Floats) -> Floats:
        """Y = h Dᵀ [N, E] of gated products h [N, D]."""
        y: Floats = h @ self.down.T
        return y

    def added(self, y: Floats) -> Floats:
        """What an output y [N, E] adds to the residual stream."""
        return y if self.norm is None else y * (self.norm / self.rms(y))

    def rms(self, y: Floats) -> Floats:
        """What the norm divides each row of y [N, E] by, [N, 1]."""
        square = np.einsum("ne,ne->n", y, y, dtype=np.float64) / y.shape[1]
        return np.asarray(np.sqrt(square + self.epsilon)[:, None], np.float32)


def feed_forward(model: Weights, layer: int) -> FeedForward:
    """Read one layer's from the model's file; 4 D E bytes.

    Raises:
        UnsupportedModelError: The model has no such tensors, or of a type that is not known here.
        ModelError: The file cannot be read.
    """
    block = f"blk.{layer}"
    down = model.tensors.read(f"{block}.ffn_down.weight", (model.n_embd, model.n_ff))
    if f"{block}.post_ffw_norm.weight" not in model.tensors:
        scale = float(model.metadata(f"{model.architecture}.residual_scale") or 0.0)
        if scale:  # as in llama.cpp, 0 says that there is none
            down *= np.float32(scale)
        return FeedForward(down)
    norm = model.tensors.read(f"{block}.post_ffw_norm.weight", (model.n_embd,))
    return FeedForward(down, norm, norm_epsilon(model))


def reader_norms(model: Weights, layer: int) -> list[Floats]:
    """Weights [E] of the norms through which a layer reads the residual stream; ones without any.

    Args:
        model: The model.
        layer: Index; L stands for what comes behind the last layer.
    """
    names = ["output_norm.weight"]
    if layer < model.n_layer:
        names = [f"blk.{layer}.attn_norm.weight", f"blk.{layer}.ffn_norm.weight"]
    shape = (model.n_embd,)
    return [
        model.tensors.read(name, shape) if name in model.tensors else np.ones(shape, np.float32)
        for name in names
    ]


def norm_epsilon(model: Weights) -> float:
    """What the model's norms add to the mean square."""
    return float(model.metadata(f"{model.architecture}.attention.layer_norm_rms_epsilon") or 0.0)
