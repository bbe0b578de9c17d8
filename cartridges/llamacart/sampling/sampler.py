"""How the next token is chosen: parameters, and llama.cpp's sampler chain that applies them."""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np

from llamacart.errors import EngineError, InputError
from llamacart.llama.closing import Closing
from llamacart.values.sampling import SEED_LIMIT, SamplingParams

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart.json_grammar.grammar import GrammarState
    from llamacart.llama.model import Model
    from llamacart.sampling.candidates import Candidates

GREEDY_BELOW = 1e-6
"""Temperatures below act as 0: dividing logits by them leaves the range of a float."""
PENALTY_WINDOW = 2**18
"""Generated tokens that penalties look back on; llama.cpp takes −1 for none at all."""
_MARGIN = 0.01
"""Below a bound computed in doubles, so that llama.cpp's floats cannot fall under it."""
_NEVER_DRAWN = 60.0
"""Beyond this below the largest, in units of the temperature: were 2¹⁸ tokens as unlikely, all of
them together would lie below 2⁻⁶⁸, and a draw has 2⁵³ outcomes."""


class Sampler(Closing):
    """A llama.cpp sampler chain with the state of one generation.

    Logits pass through: bias, penalties, then the most likely token (temperature 0) or
    top-k, top-p, min-p, temperature and a draw. Penalties count the tokens that this sampler
    chose, so the prompt is not penalised (as in OpenAI's API). With a grammar, the logits of tokens
    that do not fit count as −∞ from the first.

    llama.cpp's chain decides, but is shown only tokens that it could choose: the largest for
    temperature 0 and top-k, else those not too far below the largest for min-p or a draw. Its
    choice is the same as from the whole vocabulary; only where logits are equal, top-k may order
    them differently. Top-p without top-k needs the whole vocabulary.

    Args:
        params: What the request asks for.
        model: The model whose logits are sampled.

    Raises:
        InputError: `logit_bias` names a token that is not in the vocabulary.
    """

    def __init__(self, params: SamplingParams, model: Model) -> None:
        biases: dict[int, float] = {}
        for token, bias in params.logit_bias:
            if not 0 <= token < model.n_vocab:
                raise InputError(
                    f"logit_bias names token {token}; the vocabulary is 0..{model.n_vocab - 1}",
                    param="logit_bias",
                )
            biases[token] = biases.get(token, 0.0) + bias
        self.seed = secrets.randbelow(SEED_LIMIT) if params.seed is None else params.seed
        self._grammar = None if params.grammar is None else params.grammar.start()
        self._greedy = params.temperature < GREEDY_BELOW or params.top_p == 0
        self._keep = 1 if self._greedy else params.top_k
        """How many of the largest logits the chain looks at; 0 for all."""
        self._below_best = math.inf
        """Otherwise, how far below the largest it looks."""
        if params.top_p >= 1:
            self._below_best = _NEVER_DRAWN * params.temperature
            min_p = float(np.float32(params.min_p))  # as llama.cpp has it, which may round to 0
            if min_p:
                self._below_best = min(self._below_best, _MARGIN - math.log(min_p))
        self.is_wide = self._grammar is not None or (
            not self._keep and (params.top_p < 1 or not params.min_p)
        )
        """Whether a draw is over much of the vocabulary, which takes milliseconds."""
        self._penalised = bool(params.presence_penalty or params.frequency_penalty)
        self._changed = np.array(sorted(biases), np.int32)
        """Tokens whose logits bias or penalties change, ascending."""
        chain_params = llama_cpp.llama_sampler_chain_default_params()
        chain_params.no_perf = True
        self._chain = llama_cpp.llama_sampler_chain_init(chain_params)
        for link in self._links(params, biases, model.n_vocab):
            llama_cpp.llama_sampler_chain_add(self._chain, link)

    def _links(self, params: SamplingParams, biases: dict[int, float], n_vocab: int) -> list[Any]:
        links = []
        if biases:
            pairs = (llama_cpp.llama_logit_bias * len(biases))(*biases.items())
            links.append(llama_cpp.llama_sampler_init_logit_bias(n_vocab, len(pairs), pairs))
        if self._penalised:
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
        if self._greedy:
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

    def choose(self, logits: NDArray[np.float32], candidates: Candidates) -> int:
        """Choose a token by its logits [n_vocab] and remember it for penalties and grammar.

        Args:
            logits: One row; not changed.
            candidates: Buffers for as many; what they held is lost.

        Raises:
            EngineError: A logit is NaN or +∞ or all are −∞; the grammar allows no token; or
                this sampler is closed. The choice was not made and nothing is remembered.
            SchemaTooComplexError: The grammar takes too much work.
        """
        if not self._chain:
            raise EngineError("a closed sampler cannot sample")
        if not candidates.scan(logits):
            raise EngineError("the logits are not finite, so no token can be chosen from them")
        if self._grammar is None:
            token = self._drawn(candidates)
        else:
            token = self._constrained(self._grammar, candidates)
            self._grammar.accept(token)
        if self._penalised:
            llama_cpp.llama_sampler_accept(self._chain, token)
            place = int(self._changed.searchsorted(token))
            if not (place < len(self._changed) and self._changed[place] == token):
                self._changed = np.insert(self._changed, place, token)
        return token

    def _constrained(self, grammar: GrammarState, candidates: Candidates) -> int:
        """Choose among the tokens that `grammar` allows."""
        if self._greedy:  # the largest of all, where it is allowed, is the largest of the allowed
            token = self._drawn(candidates)
            if grammar.allows(token):
                return token
        grammar.fill(candidates.bits)
        if not candidates.restrict():
            raise EngineError("the grammar allows none of the tokens that the model can choose")
        return self._drawn(candidates)

    def _drawn(self, candidates: Candidates) -> int:
        # The changed tokens may be the largest ones, so that many more are needed of the others.
        n_changed = len(self._changed)
        if self._greedy and not n_changed:
            return candidates.largest()
        if self._keep:
            candidates.narrow(candidates.bound(self._keep + n_changed), self._changed)
        elif self._below_best < math.inf:
            best = candidates.bound(1 + n_changed)
            candidates.narrow(best - self._below_best, self._changed)
        else:
            candidates.narrow(-math.inf)
        if self._grammar is not None:
            candidates.drop_impossible()  # most of the vocabulary, often
        return candidates.apply(self._chain)

    def close(self) -> None:
        """Free the chain; closing again does nothing."""
        if self._chain:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None
