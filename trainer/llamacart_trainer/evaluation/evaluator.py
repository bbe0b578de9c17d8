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
from llamacart.passes.scoring import log_likelihoods
from llamacart.values.steering import UNSTEERED, Dose
from llamacart_trainer.evaluation import scorers
from llamacart_trainer.evaluation.contents import Continuations
from llamacart_trainer.evaluation.facts.judge import FactJudge
from llamacart_trainer.evaluation.figures import figure_of, per_token, share_of
from llamacart_trainer.evaluation.fluency import LEAST_TOKENS, distinct, repetition
from llamacart_trainer.evaluation.locality import Locality
from llamacart_trainer.evaluation.prompts.conversation import PromptWriter
from llamacart_trainer.evaluation.prompts.prompted import PromptedModel
from llamacart_trainer.evaluation.results import Scores
from llamacart_trainer.fitting.lengths import check_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart.cartridge import Cartridge
    from llamacart.llama.model import Model
    from llamacart.values.steering import Steering
    from llamacart_trainer.evaluation.bootstrap import Estimate
    from llamacart_trainer.evaluation.facts.figures import FactFigures
    from llamacart_trainer.evaluation.plan import EvaluationPlan
    from llamacart_trainer.evaluation.prompts.conversation import Preamble

    Contender = Cartridge | ControlVector

logger = logging.getLogger(__name__)

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
        with_nll: Measure what continuations cost the unsteered model; without it and without a
            scorer, the unsteered model continues nothing.

    Raises:
        RecipeError: A text of the plan is longer than the model reads.
    """

    model: Model
    plan: EvaluationPlan
    n_threads: int | None = None
    with_perplexity: bool = True
    with_nll: bool = True

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
            steering = (Dose(contender, alpha, self.plan.when),)
        silent = contender is None and not self.with_nll and self.plan.scorer is None
        out = self._continue([] if silent else self._prompts, steering, control)
        odds, target = self._answers(steering, control)
        kl, english, french = self._locality.measure(steering, control)
        neutral = np.array([answer.neutral for answer in self.plan.answers], bool)
        seed = self.plan.seed
        facts = None if self.facts is None else self.facts.measure(steering, control)
        return Scores(
            behaviour=self._behaviour(out, odds[~neutral], facts),
            **self._fluency(self._prompts, out),
            **self._lengths(self._prompts, out),
            **(self._prompted.measure(steering, control) if self._prompted else {}),
            kl=kl,
            perplexity_english=english,
            perplexity_french=french,
            log_odds=figure_of(odds[~neutral], "median", seed=seed),
            p_target=figure_of(target[~neutral], seed=seed),
            p_leaked=figure_of(target[neutral], seed=seed),
            facts=facts,
            texts=tuple(out.texts),
            seconds=time.perf_counter() - started,
        )

    def behind(self, preamble: Preamble) -> Scores | None:
        """The unsteered model with a text before every prompt, in place of a cartridge.

        What it writes is scored as what a cartridge makes the model write: its NLL is taken
        behind the prompts alone. None where the plan has no prompts.
        """
        started = time.perf_counter()
        prompts = self._behind(preamble)
        if not prompts:
            return None
        out = self._taught if preamble.teacher else self._continue(prompts, UNSTEERED, None)
        return Scores(
            behaviour=self._scored([p.text for p in self.plan.prompts], out),
            **self._fluency(self._prompts, out),
            **self._lengths(prompts, out),
            **(self._prompted.behind(prompts) if self._prompted else {}),
            facts=None,
            texts=tuple(out.texts),
            seconds=time.perf_counter() - started,
        )

    def ceiling(self) -> Scores | None:
        """The unsteered model after the references: what it writes where it needs no steering.

        None where no prompt has a reference. Behaviour is scored where the plan has a scorer.
        """
        started = time.perf_counter()
        chosen = [p for p in self.plan.prompts if p.reference is not None]
        prompts = [self._writer.tokens(p.reference or "") for p in chosen]
        if not prompts:
            return None
        out = self._continue(prompts, UNSTEERED, None)
        behind = [self._writer.tokens(p.text) for p in chosen]
        switched = log_likelihoods(self.model, behind, out.tokens, n_threads=self.n_threads)
        return Scores(
            behaviour=self._scored([p.text for p in chosen], out),
            **self._fluency(prompts, out),
            **self._lengths(prompts, out),
            nll_switched=per_token([-scores for scores in switched], seed=self.plan.seed),
            facts=None,
            texts=tuple(out.texts),
            seconds=time.perf_counter() - started,
        )

    @cached_property
    def facts(self) -> FactJudge | None:
        """Asks about the plan's facts; None where it has none."""
        plan = self.plan
        if not plan.facts:
            return None
        return FactJudge(self.model, plan.facts, self._writer, plan.seed, self.n_threads)

    # --- what is kept -----------------------------------------------------------------------

    @cached_property
    def _writer(self) -> PromptWriter:
        return PromptWriter(self.model, self.plan.recipe)

    @cached_property
    def _prompts(self) -> list[list[int]]:
        return [self._writer.tokens(prompt.text) for prompt in self.plan.prompts]

    @cached_property
    def _locality(self) -> Locality:
        return Locality(self.model, self.plan, self.n_threads, self.with_perplexity)

    @cached_property
    def _prompted(self) -> PromptedModel | None:
        """The prompt that the plan's recipe distils; None where it distils none."""
        teacher = self.plan.teacher
        if teacher is None or not self.plan.prompts:
            return None
        return PromptedModel(
            self.model,
            self._behind(teacher),
            self._prompts,
            self._taught.tokens,
            self._taught.ended,
            self.plan.seed,
            self.n_threads,
        )

    @cached_property
    def _taught(self) -> Continuations:
        """What the model answers behind the prompt that the recipe distils."""
        if self.plan.teacher is None:
            raise ValueError("the plan has no teacher")
        return self._continue(self._behind(self.plan.teacher), UNSTEERED, None)

    def _behind(self, preamble: Preamble) -> list[list[int]]:
        return [self._writer.tokens(prompt.text, preamble.turns) for prompt in self.plan.prompts]

    # --- parts of the scores ----------------------------------------------------------------

    def _continue(
        self,
        prompts: Sequence[Sequence[int]],
        steering: Steering,
        control: ControlDose | None,
    ) -> Continuations:
        out = greedy(
            self.model,
            prompts,
            self.plan.tokens,
            steering=steering,
            control=control,
            is_over=self._writer.is_over,
            n_threads=self.n_threads,
        )
        cut = [self._writer.cut(tokens) for tokens in out]
        tokens = [own for own, _ in cut]
        texts = [self.model.detokenize(own) for own in tokens]
        # An answer may be short, if it is one.
        least = 1 if self.plan.asks else min(LEAST_TOKENS, self.plan.tokens)
        return Continuations(
            tokens,
            texts,
            [stopped or len(own) < self.plan.tokens for own, stopped in cut],
            np.array(
                [
                    len(own) >= least and text.strip() != ""
                    for own, text in zip(tokens, texts, strict=True)
                ],
                np.float64,
            ),
        )

    def _behaviour(
        self, out: Continuations, odds: NDArray[np.float64], facts: FactFigures | None
    ) -> Estimate | None:
        if self.plan.scorer is not None and out.texts:
            return self._scored([prompt.text for prompt in self.plan.prompts], out)
        if facts is not None and not len(odds):
            return facts.mean
        return share_of((odds > 0).astype(np.float64), seed=self.plan.seed)

    def _scored(self, prompts: Sequence[str], out: Continuations) -> Estimate | None:
        """The plan's scorer, and 0 at most where nothing was written; None without a scorer."""
        if self.plan.scorer is None:
            return None
        scores = np.array(scorers.run(self.plan.scorer, prompts, out.texts))
        judged = np.where(out.written > 0, scores, np.minimum(scores, 0.0))
        return share_of(judged, seed=self.plan.seed)

    def _fluency(
        self, prompts: Sequence[Sequence[int]], out: Continuations
    ) -> dict[str, Estimate | None]:
        likely: list[NDArray[np.float64]] = []
        if self.with_nll:
            likely = log_likelihoods(self.model, prompts, out.tokens, n_threads=self.n_threads)
        seed = self.plan.seed
        # A plan that asks for fewer tokens than can be judged measures no repetition.
        judged = out.tokens if self.plan.tokens >= LEAST_TOKENS else []
        weights: list[float] | None = None
        if self.plan.asks:
            # In a short answer nothing can repeat; in none at all everything has failed.
            weights = [
                float(len(tokens) >= LEAST_TOKENS or not written)
                for tokens, written in zip(judged, out.written, strict=False)
            ]
        return {
            "nll": per_token([-scores for scores in likely], seed=seed),
            "nll_settled": per_token([-scores[SETTLING:] for scores in likely], seed=seed),
            "distinct": figure_of([distinct(t) for t in judged], weights=weights, seed=seed),
            "repetition": figure_of([repetition(t) for t in judged], weights=weights, seed=seed),
        }

    def _lengths(
        self, prompts: Sequence[Sequence[int]], out: Continuations
    ) -> dict[str, Estimate | None]:
        """How much was written and how it ended; of answers also what their prompts take."""
        seed = self.plan.seed
        found = {"written": share_of(out.written, seed=seed)}
        if self.plan.asks:
            found["ended"] = share_of([float(end) for end in out.ended], seed=seed)
            found["length"] = figure_of([float(len(own)) for own in out.tokens], seed=seed)
            found["prompt_tokens"] = figure_of([float(len(own)) for own in prompts], seed=seed)
        return found

    def _answers(
        self, steering: Steering, control: ControlDose | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Log P(target) − log P(original) and P(target) of each answer, [N]."""
        prompts, continuations = [], []
        for answer in self.plan.answers:
            for text in (answer.target, answer.original):
                prompts.append(self._writer.tokens(answer.prompt))
                continuations.append(self._writer.continued(answer.prompt, text))
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
