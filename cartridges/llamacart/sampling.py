"""How the next token is chosen: parameters, and llama.cpp's sampler chain that applies them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llama_cpp

from llamacart.closing import Closing
from llamacart.errors import EngineError, InputError

if TYPE_CHECKING:
    from llamacart.context import Context
    from llamacart.model import Model

SEED_LIMIT = 2**32 - 1
GREEDY_BELOW = 1e-6
"""Temperatures below act as 0: dividing logits by them leaves the range of a float."""
PENALTY_WINDOW = 2**18
"""Generated tokens that penalties look back on; llama.cpp takes −1 for none at all."""


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

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0, 100)
        _check("top_k", self.top_k, 0, 2**31 - 1)
        _check("top_p", self.top_p, 0, 1)
        if self.top_p == 0:
            raise InputError(
                f"top_p has value {self.top_p!r}; a number above 0 is needed", param="top_p"
            )
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


class Sampler(Closing):
    """A llama.cpp sampler chain with the state of one generation.

    Logits pass through: bias, penalties, then the most likely token (temperature 0) or
    top-k, top-p, min-p, temperature and a draw. Penalties count the tokens that this sampler
    chose, so the prompt is not penalised (as in OpenAI's API).

    Args:
        params: What the request asks for.
        model: The model whose logits are sampled.

    Raises:
        InputError: `logit_bias` names a token that is not in the vocabulary.
    """

    def __init__(self, params: SamplingParams, model: Model) -> None:
        for token, _ in params.logit_bias:
            if not 0 <= token < model.n_vocab:
                raise InputError(
                    f"logit_bias names token {token}; the vocabulary is 0..{model.n_vocab - 1}",
                    param="logit_bias",
                )
        self.seed = secrets.randbelow(SEED_LIMIT) if params.seed is None else params.seed
        chain_params = llama_cpp.llama_sampler_chain_default_params()
        chain_params.no_perf = True
        self._chain = llama_cpp.llama_sampler_chain_init(chain_params)
        for link in self._links(params, model.n_vocab):
            llama_cpp.llama_sampler_chain_add(self._chain, link)

    def _links(self, params: SamplingParams, n_vocab: int) -> list[Any]:
        links = []
        if params.logit_bias:
            biases = (llama_cpp.llama_logit_bias * len(params.logit_bias))(*params.logit_bias)
            links.append(llama_cpp.llama_sampler_init_logit_bias(n_vocab, len(biases), biases))
        if params.presence_penalty or params.frequency_penalty:
            repeat = 1.0  # off: it would scale logits instead of shifting them
            links.append(
                llama_cpp.llama_sampler_init_penalties(
                    n_vocab,
                    PENALTY_WINDOW,
                    repeat,
                    params.frequency_penalty,
                    params.presence_penalty,
                )
            )
        if params.temperature < GREEDY_BELOW:
            return [*links, llama_cpp.llama_sampler_init_greedy()]
        if params.top_k:
            links.append(llama_cpp.llama_sampler_init_top_k(params.top_k))
        if params.top_p < 1:
            links.append(llama_cpp.llama_sampler_init_top_p(params.top_p, 1))
        if params.min_p:
            links.append(llama_cpp.llama_sampler_init_min_p(params.min_p, 1))
        links.append(llama_cpp.llama_sampler_init_temp(params.temperature))
        # llama.cpp takes 2³²−1 to mean "draw a seed", which would not be reproducible.
        seed = self.seed % llama_cpp.LLAMA_DEFAULT_SEED
        return [*links, llama_cpp.llama_sampler_init_dist(seed)]

    def sample(self, context: Context, row: int) -> int:
        """Choose the token after batch row `row` and remember it for the penalties.

        Raises:
            EngineError: The row has no logits, or this sampler is closed.
        """
        if not self._chain:
            raise EngineError("a closed sampler cannot sample")
        context.logits(row)  # llama_sampler_sample aborts the process where there are none
        return int(llama_cpp.llama_sampler_sample(self._chain, context.handle, row))

    def close(self) -> None:
        """Free the chain; closing again does nothing."""
        if self._chain:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None
