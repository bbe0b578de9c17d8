"""What a request asks of the choice of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacart.errors import InputError

if TYPE_CHECKING:
    from llamacart.json_grammar.grammar import Grammar


SEED_LIMIT = 2**32 - 1


@dataclass(frozen=True)
class SamplingParams:
    """What a request asks for.

    Attributes:
        temperature: 0 means greedy (the most likely token).
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens with this probability in all; 1 keeps all, 0 the
            most likely one.
        min_p: Drop tokens below this share of the most likely one's probability.
        presence_penalty: Subtracted once from the logit of every token already generated.
        frequency_penalty: Subtracted for each time a token was generated.
        logit_bias: (token, bias) pairs added to the logits; those of one token add up.
        seed: 0..2³²−1; None draws one.
        grammar: What the text must follow, compiled for the model's vocabulary.

    Raises:
        InputError: A value is out of its range; `param` names the field.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0, 100)
        _check("top_k", self.top_k, 0, 2**31 - 1)
        _check("top_p", self.top_p, 0, 1)
        _check("min_p", self.min_p, 0, 1)
        _check("presence_penalty", self.presence_penalty, -2, 2)
        _check("frequency_penalty", self.frequency_penalty, -2, 2)
        for token, bias in self.logit_bias:
            _check("logit_bias", bias, -100, 100, what=f"logit_bias of token {token}")
        if self.seed is not None:
            _check("seed", self.seed, 0, SEED_LIMIT)


def _check(param: str, value: float, low: int, high: int, *, what: str = "") -> None:
    # Written so that NaN, which compares false with everything, is refused.
    if not low <= value <= high:
        raise InputError(
            f"{what or param} has value {value!r}; a number from {low} to {high} is needed",
            param=param,
        )
