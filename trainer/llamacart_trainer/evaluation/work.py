"""How much is done of what is under way, for whoever tells: a point of an evaluation, a fit."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llamacart.passes.watching import watching

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llamacart_trainer.evaluation.plan import EvaluationPlan
    from llamacart_trainer.fitting.settings import LayerReport

    OnPart = Callable[[str, float], None]
    """(what is under way, share of it that is done, 0 to 1)."""

ALMOST = 0.99
"""Most that is said to be done of what has not ended."""

CHARACTERS = 4
"""Characters of a token, about."""

FACT_ROWS = 600
"""Rows that the texts of a fact take, about."""


@dataclass
class Work:
    """Counts the rows that the model computes for one thing after another.

    Attributes:
        on_part: Called as they are computed.
        guess: Rows that each is thought to take before one of its kind has been counted.
    """

    on_part: OnPart = lambda _what, _share: None
    guess: int = 0
    _took: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def on(self, what: str, kind: str, more: int = 0) -> Iterator[None]:
        """One thing.

        Args:
            what: Its name.
            kind: Things of a kind take about as many rows: each is reckoned by the one before it.
            more: Rows that the first of the kind is thought to take beside `guess`.
        """
        expected = max(1, self._took.get(kind, self.guess + more))
        done = 0

        def count(n_rows: int) -> None:
            nonlocal done
            done += n_rows
            self.on_part(f"{what}, {done} tokens", min(done / expected, ALMOST))

        self.on_part(what, 0.0)
        with watching(count):
            yield
        self._took[kind] = done


@dataclass
class LayersDone:
    """Tells of a fit by its layers; `on_layers` and `on_layer` are for `train`.

    Attributes:
        what: What is fitted.
        on_part: Called with each layer.
    """

    what: str
    on_part: OnPart
    _total: int = 0
    _done: int = 0

    def on_layers(self, layers: Sequence[int]) -> None:
        """So many are to be fitted."""
        self._total = len(layers)

    def on_layer(self, _report: LayerReport) -> None:
        """One is."""
        self._done += 1
        self.on_part(
            f"{self.what}, layer {self._done} of {self._total}", self._done / max(1, self._total)
        )


def guess_rows(plan: EvaluationPlan, passes: int) -> int:
    """Rows that a point of a plan takes, about.

    Args:
        plan: What is measured.
        passes: How often its prompts run with what is written behind them.
    """
    prompts = _tokens([prompt.text for prompt in plan.prompts])
    answers = _tokens([2 * (a.prompt + a.target) for a in plan.answers])
    texts = prompts + len(plan.prompts) * plan.tokens
    return passes * texts + answers + _tokens(plan.neutral) + FACT_ROWS * len(plan.facts)


def _tokens(texts: Sequence[str]) -> int:
    return sum(map(len, texts)) // CHARACTERS
