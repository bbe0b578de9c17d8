"""Log-probabilities of tokens, as plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenLogprobs:
    """What the model thought of one token at its place.

    Attributes:
        token: Its id.
        logprob: Natural logarithm of its probability; −∞ where its logit is.
        top: The most likely tokens there as (id, log-probability), the likeliest first, the
            lower id first among equals.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
