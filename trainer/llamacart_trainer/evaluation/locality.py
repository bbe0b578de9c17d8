"""What steering does to texts that it should leave alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from llamacart.passes.scoring import Reference, reference, score_texts
from llamacart_trainer.evaluation.figures import exponential, per_token
from llamacart_trainer.evaluation.plan import fixed_text

if TYPE_CHECKING:
    from llamacart.llama.model import Model
    from llamacart.passes.control_vector import ControlDose
    from llamacart.values.steering import Steering
    from llamacart_trainer.evaluation.bootstrap import Estimate
    from llamacart_trainer.evaluation.plan import EvaluationPlan

MAX_NEUTRAL_ROWS = 512
"""Rows of neutral text whose unsteered logits are kept: 268 MB for Gemma's vocabulary."""


@dataclass
class Locality:
    """KL on neutral texts and perplexity of the fixed ones; keeps the unsteered model's part.

    Args:
        model: The model.
        plan: Has the neutral texts.
        n_threads: Threads for llama.cpp.
        with_perplexity: Measure perplexity on the fixed English and French texts.
    """

    model: Model
    plan: EvaluationPlan
    n_threads: int | None = None
    with_perplexity: bool = True

    def measure(
        self, steering: Steering, control: ControlDose | None
    ) -> tuple[Estimate | None, Estimate | None, Estimate | None]:
        """KL on neutral text, perplexity of the fixed English and French texts."""
        against, seed = self._neutral, self.plan.seed
        neutral = score_texts(
            self.model,
            against.sequences,
            against=against,
            steering=steering,
            control=control,
            n_threads=self.n_threads,
        )
        kl = per_token(list(neutral.divergences or ()), seed=seed)
        if not self.with_perplexity:
            return kl, None, None
        # Where the fixed English text is the neutral text, it is not run twice.
        likely = dict(zip(against.sequences, neutral.log_likelihoods, strict=True))
        missing = [t for texts in self._fixed for t in texts if tuple(t) not in likely]
        if missing:
            more = score_texts(
                self.model, missing, steering=steering, control=control, n_threads=self.n_threads
            )
            likely |= dict(zip(map(tuple, missing), more.log_likelihoods, strict=True))
        english, french = (
            exponential(per_token([-likely[tuple(t)] for t in texts], seed=seed))
            for texts in self._fixed
        )
        return kl, english, french

    @cached_property
    def _neutral(self) -> Reference:
        """Unsteered logits on the neutral texts, so many of them as may be kept."""
        kept: list[list[int]] = []
        for text in self.plan.neutral or fixed_text("english"):
            tokens = self.model.tokenize(text)
            tokens = tokens[: MAX_NEUTRAL_ROWS + 1 - sum(len(k) - 1 for k in kept)]
            if len(tokens) >= 2:  # a shorter one has nothing that could change
                kept.append(tokens)
        return reference(self.model, kept, n_threads=self.n_threads)

    @cached_property
    def _fixed(self) -> tuple[list[list[int]], list[list[int]]]:
        english, french = (
            [self.model.tokenize(text) for text in fixed_text(name)]
            for name in ("english", "french")
        )
        return english, french
