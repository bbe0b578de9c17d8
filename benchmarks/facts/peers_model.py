"""The demo's weights in torch: dequantised, frozen, run layer by layer. Gemma 3 only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from peers_texts import Said

NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
"""A matrix's name in transformers, and in a GGUF."""


def load(path: Path) -> Any:
    """A causal model of transformers with a GGUF's weights in 32 bits, without gradients."""
    logging.disable_progress_bar()
    module = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32
    )
    return module.eval().requires_grad_(requires_grad=False)


def padded(texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Token ids [B, T], filled up with 0 behind each text: no row looks at what comes later."""
    longest = max(map(len, texts))
    return torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])


def run(body: Any, hidden: torch.Tensor, layers: range) -> torch.Tensor:
    """The residual stream [B, T, m] behind some layers.

    Args:
        body: The model without its head.
        hidden: The residual stream before the first of them.
        layers: Which, in order.
    """
    positions = torch.arange(hidden.shape[1])[None]
    kinds = body.config.layer_types
    rotary = {kind: body.rotary_emb(hidden, positions, kind) for kind in set(kinds)}
    for number in layers:
        hidden = body.layers[number](
            hidden,
            position_embeddings=rotary[kinds[number]],
            attention_mask=None,
            position_ids=positions,
        )
    return hidden


def mean_loss(module: Any, texts: Sequence[Said], hidden: torch.Tensor) -> torch.Tensor:
    """Mean over texts of their objects' negative log-likelihood, nats a token.

    Args:
        module: The model.
        texts: B texts with objects.
        hidden: The last layer's residual stream [B, T, m].
    """
    found = [
        (number, row - 1, text.tokens[row], 1 / (len(text.tokens) - text.start))
        for number, text in enumerate(texts)
        for row in range(text.start, len(text.tokens))
    ]
    numbers, rows, tokens = torch.tensor([each[:3] for each in found]).T
    shares = torch.tensor([each[3] for each in found]) / len(texts)
    likely = log_odds(module, hidden[numbers, rows])
    return -(likely[torch.arange(len(found)), tokens] * shares).sum()


def log_odds(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [R, V] behind rows [R, m] of the last layer's residual stream."""
    return module.lm_head(module.model.norm(hidden)).log_softmax(-1)
