"""Asks a model about facts, under any steering and behind any text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from llamacart.passes.generate import greedy
from llamacart.passes.scoring import log_likelihoods
from llamacart.values.steering import UNSTEERED
from llamacart_trainer.evaluation.facts.elsewhere import find_elsewhere
from llamacart_trainer.evaluation.facts.figures import (
    GROUPS,
    SCORED,
    STAYS,
    FactFigures,
    GroupFigures,
)
from llamacart_trainer.evaluation.facts.neighbours import find_neighbours
from llamacart_trainer.evaluation.facts.probes import probes_of
from llamacart_trainer.evaluation.figures import figure_of, share_of
from llamacart_trainer.recipe.names import builtin_names
from llamacart_trainer.recipe.turns import Turn
from llamacart_trainer.recipe.words import any_of
from llamacart_trainer.recipe.writer import common_beginning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart.passes.control_vector import ControlDose
    from llamacart.values.steering import Steering
    from llamacart_trainer.evaluation.facts.figures import Group, Told
    from llamacart_trainer.evaluation.facts.probes import Probe
    from llamacart_trainer.evaluation.prompts.conversation import PromptWriter
    from llamacart_trainer.recipe.facts import Fact

TEXT_TOKENS, ANSWER_TOKENS = 12, 24
"""Tokens in which the right answer is looked for: of texts that go on, and of answers."""

MAX_SHEET = 1024
"""Tokens of all facts together, beyond which they are not put before a prompt."""


@dataclass(frozen=True)
class FactJudge:
    """Figures of facts; keeps what the unsteered model says.

    Attributes:
        model: The model.
        facts: The facts.
        writer: Writes prompts for it.
        seed: Of the bootstrap.
        n_threads: Threads for llama.cpp.
        before: Asks the model as it was, where this one has other weights: the texts are the same,
            and its words are what this one's are set against. None where only steering changes
            anything.
    """

    model: Model
    facts: tuple[Fact, ...]
    writer: PromptWriter
    seed: int = 0
    n_threads: int | None = None
    before: FactJudge | None = None

    def measure(self, steering: Steering, control: ControlDose | None) -> FactFigures:
        """Figures under a steering.

        Raises:
            OutOfRangeError: A cartridge made activations leave their range.
        """
        return self._measure(self._prompts, steering, control)

    def told(self, told: Told) -> FactFigures | None:
        """Figures of the unsteered model with facts before every text.

        None where all facts together are longer than `MAX_SHEET` or than the model reads.
        """
        sheet = "\n".join(fact.sentence for fact in self.facts)
        if told == "all facts in the prompt":
            room = min(
                MAX_SHEET, self.model.n_ctx_train - max(map(len, self._prompts)) - self._more
            )
            if len(self.model.tokenize(sheet)) > room:
                return None
            before = [sheet] * len(self.probes)
        else:
            before = [self.facts[probe.fact].sentence for probe in self.probes]
        prompts = [
            self.writer.tokens(probe.text, (Turn("system", text),))
            for probe, text in zip(self.probes, before, strict=True)
        ]
        return self._measure(prompts, UNSTEERED, None)

    @cached_property
    def probes(self) -> tuple[Probe, ...]:
        """All texts, in the order of the facts."""
        if self.before is not None:
            return self.before.probes
        model, facts, names = self.model, self.facts, builtin_names("eval")
        threads = self.n_threads
        return probes_of(
            facts,
            find_neighbours(model, facts, names, n_threads=threads),
            find_elsewhere(model, facts, names, self.writer.tokens, n_threads=threads),
        )

    # --- what is kept -----------------------------------------------------------------------

    @cached_property
    def _prompts(self) -> list[list[int]]:
        return [self.writer.tokens(probe.text) for probe in self.probes]

    @cached_property
    def _learnt(self) -> list[list[int]]:
        return [self.writer.answer(probe.text, probe.learnt) for probe in self.probes]

    @cached_property
    def _own(self) -> list[list[int]]:
        """What the model says behind each text without anything."""
        if self.before is not None:
            return self.before._own
        return self._continue(self._prompts, UNSTEERED, None)

    @cached_property
    def _before(self) -> list[list[int]]:
        """What each text goes on with before the fact is known; no tokens where that is no other.

        The model's own words are as many tokens as the answer that they are set against.
        """
        found = []
        for probe, learnt, own in zip(self.probes, self._learnt, self._own, strict=True):
            given = probe.before
            tokens = own[: len(learnt)] if given is None else self.writer.answer(probe.text, given)
            found.append([] if learnt[: len(tokens)] == tokens else tokens)
        return found

    @property
    def _tokens(self) -> int:
        return ANSWER_TOKENS if self.writer.asked else TEXT_TOKENS

    @property
    def _more(self) -> int:
        return max(self._tokens, *map(len, self._learnt))

    # --- one measurement --------------------------------------------------------------------

    def _measure(
        self, prompts: list[list[int]], steering: Steering, control: ControlDose | None
    ) -> FactFigures:
        plain = prompts is self._prompts and not (steering or control or self.before)
        grown = self._own if plain else self._continue(prompts, steering, control)
        texts = [self.model.detokenize(tokens) for tokens in grown]
        margins = self._margins(prompts, steering, control)
        said = self._said(texts)
        won = np.where(np.isnan(margins), np.nan, margins > 0)
        first = np.array(
            [float(now[:1] == own[:1]) for now, own in zip(grown, self._own, strict=True)]
        )
        numbers = [n for n, probe in enumerate(self.probes) if probe.group == "prompt"]
        return FactFigures(
            groups={
                group: GroupFigures(
                    odds=share_of(self._by_fact(won, group), seed=self.seed),
                    said=share_of(self._by_fact(said, group), seed=self.seed),
                    margin=figure_of(_known(margins[mask]), "median", seed=self.seed),
                    texts=int(mask.sum()),
                    first=share_of(self._by_fact(first, group), seed=self.seed),
                )
                for group in GROUPS
                if (mask := self._mask(group)).any()
            },
            mean=figure_of(self._mean(won), seed=self.seed),
            unchanged=figure_of(self._unchanged(grown), seed=self.seed),
            prompt_tokens=figure_of([float(len(prompts[n])) for n in numbers], seed=self.seed),
            texts=tuple(texts[n] for n in numbers),
        )

    def _continue(
        self,
        prompts: Sequence[Sequence[int]],
        steering: Steering,
        control: ControlDose | None,
    ) -> list[list[int]]:
        counts = [max(self._tokens, len(learnt)) for learnt in self._learnt]
        out = greedy(
            self.model,
            prompts,
            counts,
            steering=steering,
            control=control,
            is_over=self.writer.is_over,
            n_threads=self.n_threads,
        )
        return [self.writer.cut(tokens)[0] for tokens in out]

    def _margins(
        self, prompts: list[list[int]], steering: Steering, control: ControlDose | None
    ) -> NDArray[np.float64]:
        """Log P(right) − log P(other) of each text [N]; not a number where there is no other."""
        asked = [n for n, tokens in enumerate(self._before) if tokens]
        likely = log_likelihoods(
            self.model,
            [prompts[n] for n in asked for _ in range(2)],
            [tokens for n in asked for tokens in (self._learnt[n], self._before[n])],
            steering=steering,
            control=control,
            n_threads=self.n_threads,
        )
        sums = np.array([scores.sum() for scores in likely]).reshape(-1, 2)
        margins = np.full(len(self.probes), np.nan)
        margins[asked] = sums[:, 0] - sums[:, 1]
        stays = np.array([probe.group in STAYS for probe in self.probes])
        return np.where(stays, -margins, margins)

    def _said(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """1 for each text that goes on as it should, [N]."""
        found = []
        for probe, text in zip(self.probes, texts, strict=True):
            pattern = any_of([probe.learnt])
            there = pattern is not None and pattern.search(text) is not None
            found.append(float(there != (probe.group in STAYS)))
        return np.array(found)

    def _unchanged(self, grown: Sequence[Sequence[int]]) -> list[float]:
        """For each fact with neighbours the mean share of their first tokens that are as before."""
        shares = np.full(len(self.probes), np.nan)
        for n, (now, own) in enumerate(zip(grown, self._own, strict=True)):
            longer = max(len(now), len(own))
            shares[n] = common_beginning(now, own) / longer if longer else 1.0
        return self._by_fact(shares, "neighbour")

    # --- from texts to facts ----------------------------------------------------------------

    def _mask(self, group: Group) -> NDArray[np.bool_]:
        return np.array([probe.group == group for probe in self.probes])

    def _by_fact(self, values: NDArray[np.float64], group: Group) -> list[float]:
        """Mean of each fact's texts of a group; facts without any are left out."""
        mask = self._mask(group) & ~np.isnan(values)
        facts = np.array([probe.fact for probe in self.probes])
        return [float(values[mask & (facts == n)].mean()) for n in dict.fromkeys(facts[mask])]

    def _mean(self, won: NDArray[np.float64]) -> list[float]:
        """For each fact the mean over the groups that `SCORED` names and that it has texts of."""
        facts = np.array([probe.fact for probe in self.probes])
        means = []
        for number in range(len(self.facts)):
            parts = [
                won[mask].mean()
                for group in SCORED
                if (mask := self._mask(group) & (facts == number) & ~np.isnan(won)).any()
            ]
            means += [float(np.mean(parts))] if parts else []
        return means


def _known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[~np.isnan(values)]
