"""Scores of one steering: continuations, their fluency, and what happens to other texts."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import OutOfRangeError
from llamacart.passes.control_vector import ControlDose, ControlVector
from llamacart.passes.generate import greedy
from llamacart.passes.scoring import Reference, log_likelihoods, reference, score_texts
from llamacart.values.steering import UNSTEERED, Dose
from llamacart_trainer.evaluation import scorers
from llamacart_trainer.evaluation.bootstrap import Estimate, estimate, is_binary
from llamacart_trainer.evaluation.fluency import LEAST_TOKENS, distinct, repetition
from llamacart_trainer.evaluation.plan import fixed_text
from llamacart_trainer.evaluation.results import Scores
from llamacart_trainer.fitting.lengths import check_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart.cartridge import Cartridge
    from llamacart.llama.model import Model
    from llamacart.values.steering import Steering
    from llamacart_trainer.evaluation.bootstrap import Statistic
    from llamacart_trainer.evaluation.plan import EvaluationPlan

    Contender = Cartridge | ControlVector

logger = logging.getLogger(__name__)

MAX_NEUTRAL_ROWS = 512
"""Rows of neutral text whose unsteered logits are kept: 268 MB for Gemma's vocabulary."""

SETTLING = 4
"""First tokens of a continuation that `nll_settled` leaves out."""


@dataclass
class Evaluator:
    """Evaluates steerings of one model by one plan, and keeps what they share.

    Args:
        model: The model.
        plan: What is measured.
        n_threads: Threads for llama.cpp.
        with_perplexity: Measure perplexity on the fixed English and French texts.

    Raises:
        RecipeError: A text of the plan is longer than the model reads.
    """

    model: Model
    plan: EvaluationPlan
    n_threads: int | None = None
    with_perplexity: bool = True

    def __post_init__(self) -> None:
        check_plan(self.model, self.plan)

    def score(self, contender: Contender | None, alpha: float) -> Scores:
        """Figures of a cartridge or control vector at α; None is the unsteered model.

        Where it makes activations leave their range, nothing is measured.
        """
        started = time.perf_counter()
        try:
            return self._measure(contender, alpha, started)
        except OutOfRangeError as error:
            logger.warning("nothing is measured at α = %g: %s", alpha, error.message)
            return Scores(None, None, None, None, seconds=time.perf_counter() - started)

    def _measure(self, contender: Contender | None, alpha: float, started: float) -> Scores:
        steering: Steering = UNSTEERED
        control: ControlDose | None = None
        if isinstance(contender, ControlVector):
            control = ControlDose(contender, alpha)
        elif contender is not None:
            steering = (Dose(contender, alpha),)
        out = self._continue(self._prompts, steering, control)
        texts = [self.model.detokenize(tokens) for tokens in out]
        odds, target = self._answers(steering, control)
        kl, english, french = self._other_texts(steering, control)
        neutral = np.array([answer.neutral for answer in self.plan.answers], bool)
        written = self._written(out, texts)
        return Scores(
            behaviour=self._behaviour(texts, written, odds[~neutral]),
            **self._fluency(self._prompts, out),
            written=self._share(written),
            kl=kl,
            perplexity_english=english,
            perplexity_french=french,
            log_odds=self._estimate(odds[~neutral], statistic="median"),
            p_target=self._estimate(target[~neutral]),
            p_leaked=self._estimate(target[neutral]),
            texts=tuple(texts),
            seconds=time.perf_counter() - started,
        )

    def ceiling(self) -> Scores | None:
        """The unsteered model after the references: what it writes where it needs no steering.

        None where no prompt has a reference. Behaviour is scored where the plan has a scorer.
        """
        started = time.perf_counter()
        chosen = [p for p in self.plan.prompts if p.reference is not None]
        prompts = [self.model.tokenize(p.reference or "") for p in chosen]
        if not prompts:
            return None
        out = self._continue(prompts, UNSTEERED, None)
        texts = [self.model.detokenize(tokens) for tokens in out]
        behind = [self.model.tokenize(p.text) for p in chosen]
        switched = log_likelihoods(self.model, behind, out, n_threads=self.n_threads)
        written = self._written(out, texts)
        return Scores(
            behaviour=self._scored([p.text for p in chosen], texts, written),
            **self._fluency(prompts, out),
            written=self._share(written),
            nll_switched=self._per_token([-scores for scores in switched]),
            texts=tuple(texts),
            seconds=time.perf_counter() - started,
        )

    @cached_property
    def _prompts(self) -> list[list[int]]:
        return [self.model.tokenize(prompt.text) for prompt in self.plan.prompts]

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

    def _continue(
        self,
        prompts: Sequence[Sequence[int]],
        steering: Steering,
        control: ControlDose | None,
    ) -> list[list[int]]:
        return greedy(
            self.model,
            prompts,
            self.plan.tokens,
            steering=steering,
            control=control,
            n_threads=self.n_threads,
        )

    def _written(self, out: Sequence[Sequence[int]], texts: Sequence[str]) -> NDArray[np.float64]:
        """1 for each continuation that is long enough to be judged, 0 for the others."""
        least = min(LEAST_TOKENS, self.plan.tokens)
        return np.array(
            [
                len(tokens) >= least and text.strip() != ""
                for tokens, text in zip(out, texts, strict=True)
            ],
            np.float64,
        )

    def _behaviour(
        self, texts: Sequence[str], written: NDArray[np.float64], odds: NDArray[np.float64]
    ) -> Estimate | None:
        if self.plan.scorer is not None and texts:
            return self._scored([prompt.text for prompt in self.plan.prompts], texts, written)
        return self._share((odds > 0).astype(np.float64))

    def _scored(
        self, prompts: Sequence[str], texts: Sequence[str], written: NDArray[np.float64]
    ) -> Estimate | None:
        """The plan's scorer, and 0 at most where nothing was written; None without a scorer."""
        if self.plan.scorer is None:
            return None
        scores = np.array(scorers.run(self.plan.scorer, prompts, texts))
        return self._share(np.where(written > 0, scores, np.minimum(scores, 0.0)))

    def _fluency(
        self, prompts: Sequence[Sequence[int]], out: Sequence[Sequence[int]]
    ) -> dict[str, Estimate | None]:
        likely = log_likelihoods(self.model, prompts, out, n_threads=self.n_threads)
        # A plan that asks for fewer tokens than can be judged measures no repetition.
        judged = out if self.plan.tokens >= LEAST_TOKENS else []
        return {
            "nll": self._per_token([-scores for scores in likely]),
            "nll_settled": self._per_token([-scores[SETTLING:] for scores in likely]),
            "distinct": self._estimate([distinct(tokens) for tokens in judged]),
            "repetition": self._estimate([repetition(tokens) for tokens in judged]),
        }

    def _answers(
        self, steering: Steering, control: ControlDose | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Log P(target) − log P(original) and P(target) of each answer, [N]."""
        prompts, continuations = [], []
        for answer in self.plan.answers:
            for text in (answer.target, answer.original):
                prompts.append(self.model.tokenize(answer.prompt))
                continuations.append(self.model.tokenize(text, add_special=False))
        likely = log_likelihoods(
            self.model,
            prompts,
            continuations,
            steering=steering,
            control=control,
            n_threads=self.n_threads,
        )
        sums = np.array([scores.sum() for scores in likely]).reshape(-1, 2)
        return sums[:, 0] - sums[:, 1], np.exp(sums[:, 0])

    def _other_texts(
        self, steering: Steering, control: ControlDose | None
    ) -> tuple[Estimate | None, Estimate | None, Estimate | None]:
        """KL on neutral text, perplexity of the fixed English and French texts."""
        against = self._neutral
        neutral = score_texts(
            self.model,
            against.sequences,
            against=against,
            steering=steering,
            control=control,
            n_threads=self.n_threads,
        )
        kl = self._per_token(list(neutral.divergences or ()))
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
            _exponential(self._per_token([-likely[tuple(t)] for t in texts]))
            for texts in self._fixed
        )
        return kl, english, french

    def _per_token(self, values: Sequence[NDArray[np.float64]]) -> Estimate | None:
        """Mean over all tokens, with an interval over the texts they come from.

        None where there is no token, or where the steered model gave no finite number.
        """
        if not any(map(len, values)) or not all(np.isfinite(v).all() for v in values):
            return None
        means = [v.mean() if len(v) else 0.0 for v in values]
        return estimate(means, [len(v) for v in values], seed=self.plan.seed)

    def _share(self, values: NDArray[np.float64]) -> Estimate | None:
        """Of outcomes that are 0 or 1; the mean where a user's own scorer gives other numbers."""
        return self._estimate(values, "share" if is_binary(values) else "mean")

    def _estimate(
        self, values: Sequence[float] | NDArray[np.float64], statistic: Statistic = "mean"
    ) -> Estimate | None:
        if len(values) == 0 or not np.isfinite(values).all():
            return None
        return estimate(values, statistic=statistic, seed=self.plan.seed)


def _exponential(value: Estimate | None) -> Estimate | None:
    if value is None:
        return None
    return Estimate(
        float(np.exp(value.value)), float(np.exp(value.low)), float(np.exp(value.high)), value.n
    )
