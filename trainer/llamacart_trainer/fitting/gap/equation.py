"""What is missing in the residual stream behind a layer, in the units in which its FFN can mend it.

A layer adds B h to the stream, divided by rms(D h) where a norm stands behind its FFN, with D the
down projection and B = diag(w) D under a norm of weight w, B = D without. A step Δh thus moves the
stream by B Δh / rms(y): what is missing, d, asks for B Δh = rms(y) d. That is a Gauss-Newton step:
the norm's division is taken as it stands, not as it would be after the step. An error in Δh counts
as 1 / rms(y), and so do the rows. Without a norm there, rows count as their errors do to those who
read the stream through norms: 1 / rms(r), r the stream behind the layer.

Those who read the stream do so through norms of their own, which shrink some of its dimensions
and not others. A few dimensions of some models are hundreds of times larger than the rest and say
little. Missing parts are therefore compared by what the readers see of them, the metric m: both
sides of B Δh = rms(y) d are multiplied by √m.

Axes: N rows, D FFN width, E width of the residual stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llamacart.llama.feed_forward import reader_norms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart.llama.feed_forward import FeedForward
    from llamacart.llama.model import Model

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Gap:
    """The equation √m ⊙ B Δh = √m ⊙ rms(y) d of one layer.

    Attributes:
        end: The end of the layer's FFN.
        roots: √m [E].
    """

    end: FeedForward
    roots: Floats

    @property
    def ways(self) -> Floats:
        """√m ⊙ B [E, D]: where each neuron takes the residual stream, in the equation's units."""
        scale = self.roots if self.end.norm is None else self.roots * self.end.norm
        return self.end.down * scale[:, None]

    def open(self, x: Floats, h: Floats, wanted: Floats) -> Floats:
        """√m ⊙ rms(y) d [N, E]: what is missing.

        Args:
            x: The residual stream that enters the FFN [N, E].
            h: The gated product [N, D].
            wanted: The residual stream that is wanted behind the layer [N, E].
        """
        y = self.end.output(h)
        return self._in_units(y, wanted - x - self.end.added(y))

    def scaled(self, h: Floats, step: Floats) -> Floats:
        """√m ⊙ rms(y) d [N, E] of steps d [N, E] of the residual stream at gated products h."""
        return self._in_units(self.end.output(h), step)

    def _in_units(self, y: Floats, step: Floats) -> Floats:
        step = step * self.roots
        return step if self.end.norm is None else step * self.end.rms(y)

    def weights(self, x: Floats, h: Floats) -> Floats:
        """How much each row counts, [N], of streams x [N, E] and gated products h [N, D]."""
        y = self.end.output(h)
        length = self.end.rms(x + y if self.end.norm is None else y)
        return np.asarray(1 / np.maximum(length[:, 0], 1e-20), np.float32)


def reading_metric(model: Model, sizes: Sequence[float], layer: int) -> Doubles:
    """How much the readers behind a layer see of each dimension of the stream, m [E], mean 1.

    m = Σ w_k² / ρ_k² over the norms of all later layers and the last one, where w_k is a norm's
    weight and ρ_k the length of what it divides by.

    Args:
        model: The model.
        sizes: Mean square of the residual stream behind each layer [L].
        layer: Index.
    """
    seen = np.zeros(model.n_embd)
    for reader in range(layer + 1, model.n_layer + 1):
        for weight in reader_norms(model, reader):
            seen += np.asarray(weight, np.float64) ** 2 / max(sizes[reader - 1], 1e-30)
    return np.asarray(seen / max(float(seen.mean()), 1e-30))
