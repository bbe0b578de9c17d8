"""A cartridge as a control vector, where it is one: a mean shift without a norm behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import InputError
from llamacart.llama.feed_forward import feed_forward

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart.cartridge import Cartridge
    from llamacart.llama.weights import Weights


def directions_of(cartridge: Cartridge, model: Weights, alpha: float) -> NDArray[np.float32]:
    """What a control vector adds to each layer's output, α D_S b, float32 [L, E].

    Args:
        cartridge: Made for the model.
        model: The model.
        alpha: α.

    Raises:
        InputError: A control vector cannot hold the cartridge; the message says why.
    """
    out = np.zeros((model.n_layer, model.n_embd), np.float32)
    for m in cartridge.layers:
        where = f"cartridge {cartridge.name!r}, layer {m.layer}: a control vector cannot hold it"
        if m.delta is not None:
            raise InputError(
                f"{where}; its map depends on the row, and a control vector adds the same to all "
                "rows; --to gguf-lora holds it"
            )
        if m.layer == 0:
            raise InputError(f"{where}; llama.cpp steers from layer 1 on")
        end = feed_forward(model, m.layer)
        if end.norm is not None:
            raise InputError(
                f"{where}; {model.architecture} has a norm behind its FFN, and a control vector is "
                "added after that; --to gguf-lora holds it"
            )
        out[m.layer] = np.float32(alpha) * (end.down[:, m.neurons] @ m.bias)
    return out
