"""How the next token is chosen: parameters, and llama.cpp's sampler chain that applies them."""

from __future__ import annotations

from dataclasses import dataclass

SEED_LIMIT = 2**32 - 1


@dataclass(frozen=True)
class SamplingParams:
    """What a request asks for.

    Attributes:
        temperature: 0 means greedy (the most likely token).
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens with this probability in all; 1 keeps all.
        min_p: Drop tokens below this share of the most likely one's probability.
        presence_penalty: Subtracted once from the logit of every token already generated.
        frequency_penalty: Subtracted for each time a token was generated.
        logit_bias: (token, bias) pairs added to the logits.
        seed: 0..2³²−1; None draws one.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
