"""LoRA by gradient on the statements of facts, with peft.

Source: Hu et al. (2022), "LoRA: low-rank adaptation of large language models".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peers_closed_form import HALF
from peers_model import NAMES, log_odds, mean_loss, padded, run
from peft import LoraConfig, get_peft_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from peers_texts import Said


@dataclass(frozen=True)
class LoraSettings:
    """How an adapter is trained.

    Attributes:
        rank: Of every matrix's step.
        matrices: Names in transformers, with commas.
        rate: Learning rate of AdamW.
        steps: Each shows every statement once; at most.
        enough: The loss that ends them, nats a token.
        sentences: How many sentences may stand before a statement; each step takes one, or none.
        keep: Weight of the KL, from the model as it is, of what follows other texts; each step
            takes as many of them as there are facts.
    """

    rank: int = 8
    matrices: str = "q_proj,v_proj"
    rate: float = 1e-3
    steps: int = 20
    enough: float = 0.05
    sentences: int = 0
    keep: float = 0.0


@dataclass(frozen=True)
class Adapter:
    """A trained LoRA.

    Attributes:
        steps: What it adds to matrices, by their names in a GGUF.
        size: Its bytes at 16 bits.
        losses: After each step, nats a token.
    """

    steps: dict[str, NDArray[np.float32]]
    size: int
    losses: list[float]


def fit_lora(
    module: Any,
    ways: Sequence[Sequence[Said]],
    settings: LoraSettings,
    others: Sequence[Sequence[int]] = (),
) -> Adapter:
    """Train one adapter for all facts; afterwards the model is as it was.

    Args:
        module: The model.
        ways: For each fact its statement alone, and behind sentences.
        settings: See there.
        others: Token ids of other texts, for `keep`.
    """
    torch.manual_seed(0)
    chosen = np.random.default_rng(0)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank,
        target_modules=settings.matrices.split(","),
        lora_dropout=0.0,
    )
    adapted = get_peft_model(module, config)
    own = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=settings.rate, weight_decay=0.0)
    losses: list[float] = []
    for _ in range(settings.steps):
        texts = [way[int(chosen.integers(len(way)))] for way in ways]
        loss = mean_loss(module, texts, hidden_of(module, [text.tokens for text in texts]))
        optimizer.zero_grad()
        loss.backward()
        if settings.keep:
            some = [others[n] for n in chosen.choice(len(others), len(ways))]
            with torch.no_grad(), adapted.disable_adapter():
                kept = last_odds(module, some)
            apart = (kept.exp() * (kept - last_odds(module, some))).sum() / len(some)
            (settings.keep * apart).backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if losses[-1] < settings.enough:
            break
    trained = Adapter(steps_of(adapted), HALF * sum(p.numel() for p in own), losses)
    adapted.unload()
    module.requires_grad_(requires_grad=False)
    return trained


def hidden_of(module: Any, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """The last layer's residual stream [B, T, m] of some texts."""
    body = module.model
    return run(body, body.embed_tokens(padded(texts)), range(body.config.num_hidden_layers))


def last_odds(module: Any, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Log-probabilities [B, V] of what follows each text."""
    ends = torch.tensor([len(text) - 1 for text in texts])
    return log_odds(module, hidden_of(module, texts)[torch.arange(len(texts)), ends])


def steps_of(adapted: Any) -> dict[str, NDArray[np.float32]]:
    """What an adapter adds to each matrix, by its name in a GGUF."""
    found = {}
    for name, layer in adapted.named_modules():
        if hasattr(layer, "get_delta_weight"):
            parts = name.split(".")
            number, matrix = int(parts[parts.index("layers") + 1]), parts[-1]
            step = layer.get_delta_weight("default").detach().clone().numpy()
            found[f"blk.{number}.{NAMES[matrix]}.weight"] = step
    return found
