"""How far a cartridge is from the prompt that it is to replace.

The teacher is the model behind the prompt that a recipe distils. Its own answers to the plan's
prompts are read by it and by the steered model without the prompt, and what both expect next is
compared token by token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from llamacart.passes.forecasts import KEPT_BYTES, Apart, apart, forecasts, most_rows
from llamacart.values.steering import UNSTEERED
from llamacart_trainer.evaluation.bootstrap import share_removed
from llamacart_trainer.evaluation.figures import per_token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart.llama.model import Model
    from llamacart.passes.control_vector import ControlDose
    from llamacart.passes.forecasts import Forecasts
    from llamacart.values.steering import Steering
    from llamacart_trainer.evaluation.bootstrap import Estimate


@dataclass
class PromptedModel:
    """The teacher's answers, and what it expects in them.

    Attributes:
        model: The model.
        prompts: The plan's prompts behind the teacher's prompt, token ids.
        plain: The same prompts alone.
        answers: The teacher's answers; the token that ends one is no part of it.
        ended: Which of them have ended.
        seed: Of the bootstrap.
        n_threads: Threads for llama.cpp.
        kept_bytes: What the teacher's forecasts may take. Where the answers have more rows, rows at
            even distances are compared.
    """

    model: Model
    prompts: Sequence[Sequence[int]]
    plain: Sequence[Sequence[int]]
    answers: Sequence[Sequence[int]]
    ended: Sequence[bool]
    seed: int = 0
    n_threads: int | None = None
    kept_bytes: int = KEPT_BYTES

    def measure(
        self, steering: Steering, control: ControlDose | None
    ) -> dict[str, Estimate | None]:
        """Fields of `Scores`: KL to the teacher, same first choice, share of the KL removed."""
        if not steering and control is None:
            return self._figures(self._unsteered)
        return self._figures(self._apart(self.plain, steering, control))

    def behind(self, prompts: Sequence[Sequence[int]]) -> dict[str, Estimate | None]:
        """The same of the unsteered model behind other text than the teacher's."""
        if list(map(list, prompts)) == list(map(list, self.prompts)):
            counts = [len(own) for own in self._rows]
            zeros, ones = [np.zeros(n) for n in counts], [np.ones(n) for n in counts]
            return self._figures(Apart(tuple(zeros), tuple(ones)))
        return self._figures(self._apart(prompts, UNSTEERED, None))

    def _figures(self, found: Apart) -> dict[str, Estimate | None]:
        kl = per_token(found.divergences, seed=self.seed)
        before = per_token(self._unsteered.divergences, seed=self.seed)
        return {
            "kl_prompted": kl,
            "agreement": per_token(found.agreements, seed=self.seed),
            "removed": share_removed(kl, before, seed=self.seed) if kl and before else None,
        }

    @cached_property
    def _rows(self) -> list[list[int]]:
        """For each answer the tokens of it that are forecast, by number; its end is one."""
        counts = [len(a) + end for a, end in zip(self.answers, self.ended, strict=True)]
        places = [(text, n) for text, count in enumerate(counts) for n in range(count)]
        most = most_rows(self.model, self.kept_bytes)
        if len(places) > most:
            places = [places[i] for i in np.linspace(0, len(places) - 1, most).astype(int)]
        rows: list[list[int]] = [[] for _ in self.answers]
        for text, n in places:
            rows[text].append(n)
        return rows

    @cached_property
    def _forecasts(self) -> Forecasts:
        return forecasts(self.model, *self._placed(self.prompts), n_threads=self.n_threads)

    @cached_property
    def _unsteered(self) -> Apart:
        return self._apart(self.plain, UNSTEERED, None)

    def _apart(
        self, prompts: Sequence[Sequence[int]], steering: Steering, control: ControlDose | None
    ) -> Apart:
        return apart(
            self.model,
            *self._placed(prompts),
            self._forecasts,
            steering=steering,
            control=control,
            n_threads=self.n_threads,
        )

    def _placed(self, prompts: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[list[int]]]:
        """Answers behind prompts, and the rows that forecast what is compared."""
        texts = [[*p, *a] for p, a in zip(prompts, self.answers, strict=True)]
        rows = [[len(p) - 1 + n for n in own] for p, own in zip(prompts, self._rows, strict=True)]
        return texts, rows
