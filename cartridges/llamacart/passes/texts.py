"""The core by texts: continue prompts and look at activations, with cartridges or without.

What these two functions do for texts, `passes.generate` and `passes.capture` do for tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import InputError
from llamacart.passes.capture import capture, row_offsets
from llamacart.passes.generate import greedy, sampled
from llamacart.values.steering import UNSTEERED, Dose

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart.values.sampling import SamplingParams
    from llamacart.values.steering import Steering

    Text = str | Sequence[int]
    """A text, or its token ids."""


def complete(
    model: Model,
    prompts: Sequence[Text],
    *,
    n_tokens: int = 64,
    steering: Dose | Steering = UNSTEERED,
    sampling: SamplingParams | None = None,
    n_threads: int | None = None,
) -> list[str]:
    """Continue prompts, all of them together.

    Args:
        model: The model.
        prompts: Texts, which get the model's BOS token; token ids are taken as they are.
        n_tokens: Tokens to generate; a text ends earlier where the model ends it.
        steering: A cartridge at one strength, or several; the prompts are steered too.
        sampling: How tokens are drawn; the most likely ones without. Prompt i draws with the seed
            plus i.
        n_threads: Threads for compute; None means all processors of the process.

    Returns:
        The continuations, without their prompts.

    Raises:
        InputError: A prompt has no tokens or one that is not in the vocabulary, or `n_tokens`
            is less than 1.
        AlphaError: An α is not finite or beyond ±10.
        CartridgeMismatchError: A cartridge was made for another model.
    """
    if n_tokens < 1:
        raise InputError(f"n_tokens has value {n_tokens}; at least 1 is needed", param="n_tokens")
    tokens = _tokens(model, prompts, "prompt")
    doses = (steering,) if isinstance(steering, Dose) else steering
    if sampling is None:
        out = greedy(model, tokens, n_tokens, steering=doses, n_threads=n_threads)
    else:
        out = sampled(model, tokens, n_tokens, sampling, steering=doses, n_threads=n_threads)
    return [model.detokenize(own) for own in out]


def activations(
    model: Model,
    texts: Sequence[Text],
    *,
    layers: Iterable[int] | None = None,
    n_threads: int | None = None,
) -> dict[int, list[NDArray[np.float32]]]:
    """What enters the FFN's down projection, where cartridges act: each layer's gated product.

    Args:
        model: The model.
        texts: Texts, which get the model's BOS token; token ids are taken as they are.
        layers: Layers to look at, from 0; None means all. A text takes 4 T D bytes a layer.
        n_threads: Threads for compute; None means all processors of the process.

    Returns:
        For each layer, in ascending order, one array [T, D] for each text: T its tokens, D the
        model's `n_ff`.

    Raises:
        InputError: There is no text or no such layer, or a text has no tokens or one that is not
            in the vocabulary.
    """
    chosen = sorted(set(range(model.n_layer) if layers is None else layers))
    for layer in chosen:
        if not 0 <= layer < model.n_layer:
            raise InputError(
                f"layers has value {layer}; the model has layers 0 to {model.n_layer - 1}",
                param="layers",
            )
    if not chosen:
        raise InputError("layers is empty; name a layer", param="layers")
    tokens = _tokens(model, texts, "text")
    starts = row_offsets(tokens)[1:-1]
    captured = capture(model, tokens, layers=chosen, n_threads=n_threads)
    return {layer: np.split(rows, starts) for layer, rows in captured.items()}


def _tokens(model: Model, texts: Sequence[Text], kind: str) -> list[list[int]]:
    """Token ids of each text, refused where llama.cpp would crash on them."""
    if isinstance(texts, str):
        raise InputError(f"one {kind} was given where a list of them is needed")
    out = []
    for number, text in enumerate(texts):
        tokens = model.tokenize(text) if isinstance(text, str) else list(text)
        model.check_tokens(tokens)
        if not tokens:
            raise InputError(f"{kind} {number} has no tokens")
        out.append(tokens)
    return out
