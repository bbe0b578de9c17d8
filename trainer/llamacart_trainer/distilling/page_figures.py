"""What a page's cartridge answers, beside the model with the page in its prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llamacart.passes.scoring import log_likelihoods
from llamacart.values.steering import UNSTEERED, Dose
from llamacart_trainer.distilling.page import words
from llamacart_trainer.evaluation.figures import share_of
from llamacart_trainer.fitting.answers import answer
from llamacart_trainer.recipe.turns import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamacart.cartridge import Cartridge
    from llamacart.llama.model import Model
    from llamacart.values.steering import Steering
    from llamacart_trainer.distilling.page import Page
    from llamacart_trainer.evaluation.bootstrap import Estimate
    from llamacart_trainer.recipe.turns import Exchange
    from llamacart_trainer.recipe.writer import Writer

ALPHAS = (1.0, 1.3, 1.6)
TOKENS = 40
"""Tokens of an answer, at most."""
HELD = 0.5
"""Share of a sentence's own words that an answer holds, at least, to count."""


@dataclass(frozen=True)
class Choice:
    """α, as held-out questions choose it.

    Attributes:
        alpha: That of the cartridge: all of them choose.
        halves: For each half that which the other one chooses.
    """

    alpha: float
    halves: tuple[float, ...]

    @classmethod
    def given(cls, alpha: float) -> Choice:
        """Of one who has chosen."""
        return cls(alpha, (alpha, alpha))


@dataclass(frozen=True)
class PageFigures:
    """Shares of questions that are answered as the page does.

    An answer counts if it holds half of the words that its sentence alone says, and the question
    does not.

    Attributes:
        choice: α, and those that the halves were measured at.
        cartridge: With the cartridge.
        prompted: With the page in the prompt.
        plain: With neither.
        saved: Tokens of the page.
    """

    choice: Choice
    cartridge: Estimate
    prompted: Estimate
    plain: Estimate
    saved: int

    @property
    def sentence(self) -> str:
        """The figures, in a sentence."""
        alphas = " and ".join(f"{alpha:g}" for alpha in sorted({*self.choice.halves}))
        return (
            f"At α {alphas} the cartridge answers {self.cartridge.value:.0%} of "
            f"{self.cartridge.n} questions that it has not seen (95 %: {self.cartridge.low:.0%} to "
            f"{self.cartridge.high:.0%}), the model with the page in its prompt "
            f"{self.prompted.value:.0%}, without it {self.plain.value:.0%}; texts that name none "
            f"of what it waits for stay as they are; {self.saved} prompt tokens are saved a "
            "request."
        )


@dataclass(frozen=True)
class PageJudge:
    """Asks about a page.

    Attributes:
        page: The page.
        before: The page as turns of a prompt.
        model: The model.
        writer: Writes conversations for it.
        n_threads: Threads for compute.
    """

    page: Page
    before: Sequence[Turn]
    model: Model
    writer: Writer
    n_threads: int | None = None

    def choose(
        self,
        cartridge: Cartridge,
        alphas: Sequence[float],
        halves: Sequence[Sequence[Exchange]],
        on_point: Callable[[], None] = lambda: None,
    ) -> Choice:
        """The α at which the page's sentences are the likeliest answers, nats a token.

        Few questions are held out. So all of them choose, and each half is measured at the α that
        the other one chooses: no question is measured at an α that it has had a say in.

        Args:
            cartridge: The cartridge.
            alphas: What to choose from.
            halves: Two halves of the held-out questions, with the sentences that answer them.
            on_point: Called behind each α.
        """
        asked = [each for half in halves for each in half]
        prompts = [self.writer.opened([Turn("user", each.prompt)]) for each in asked]
        answers = [self.model.tokenize(each.text, add_special=False) for each in asked]
        sums = []
        for alpha in alphas:
            likely = log_likelihoods(
                self.model,
                prompts,
                answers,
                steering=(Dose(cartridge, alpha),),
                n_threads=self.n_threads,
            )
            sums.append([float(own.sum()) for own in likely])
            on_point()
        scores, first = np.array(sums), len(halves[0])
        parts = (slice(None), slice(first, None), slice(first))
        whole, *own = (alphas[int(np.argmax(scores[:, part].sum(axis=1)))] for part in parts)
        return Choice(whole, tuple(own))

    def measure(
        self,
        cartridge: Cartridge,
        choice: Choice,
        halves: Sequence[Sequence[Exchange]],
        on_point: Callable[[], None] = lambda: None,
    ) -> PageFigures:
        """Figures on the held-out questions; at least one.

        Args:
            cartridge: The cartridge.
            choice: α, and that of each half.
            halves: Two halves of the held-out questions, with the sentences that answer them.
            on_point: Called behind each of the three that are compared.
        """
        asked = [each for half in halves for each in half]
        steered = [
            right
            for half, alpha in zip(halves, choice.halves, strict=True)
            for right in self._right(half, (), (Dose(cartridge, alpha),))
        ]
        on_point()
        prompted = self._right(asked, self.before, UNSTEERED)
        on_point()
        plain = self._right(asked, (), UNSTEERED)
        on_point()
        message = [Turn("user", asked[0].prompt)]
        saved = len(self.writer.opened([*self.before, *message])) - len(self.writer.opened(message))
        return PageFigures(choice, _share(steered), _share(prompted), _share(plain), saved)

    def _right(
        self, asked: Sequence[Exchange], before: Sequence[Turn], steering: Steering
    ) -> list[float]:
        """1 for each question that is answered as the page does, else 0."""
        given = answer(
            self.model,
            self.writer,
            [[*before, Turn("user", each.prompt)] for each in asked],
            TOKENS,
            steering=steering,
            n_threads=self.n_threads,
        )
        return [float(self.holds(each, own.text)) for each, own in zip(asked, given, strict=True)]

    def holds(self, asked: Exchange, text: str) -> bool:
        """Whether a text says what the sentence that answers a question says."""
        own = self.page.own_words(asked.text, asked.prompt) or words(asked.text)
        return len(own & words(text)) >= HELD * len(own)


def _share(right: Sequence[float]) -> Estimate:
    share = share_of(right)
    if share is None:
        raise ValueError("a page is measured on one question at least")
    return share
