"""Log-probabilities of tokens in the model's own distribution.

They are the log-softmax of a row's logits as the model gives them: before bias, penalties,
temperature, any cut (top-k, top-p, min-p) and grammar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacart.errors import EngineError
from llamacart.values.logprobs import TokenLogprobs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llamacart.sampling.candidates import Candidates


def read_logprobs(
    logits: NDArray[np.float32], token: int, n_top: int, candidates: Candidates
) -> TokenLogprobs:
    """Log-probabilities of a token and of the most likely ones.

    Args:
        logits: One row [n_vocab]; not changed.
        token: The token that came, in the vocabulary.
        n_top: How many of the most likely tokens are wanted.
        candidates: Buffers for as many; what they held is lost.

    Raises:
        EngineError: A logit is NaN or +∞ or all are −∞.
    """
    if not candidates.scan(logits):
        raise EngineError("the logits are not finite, so they give no probabilities")
    total = candidates.log_sum_exp()
    top = tuple((i, float(logits[i]) - total) for i in candidates.most_likely(n_top))
    return TokenLogprobs(token, float(logits[token]) - total, top)
