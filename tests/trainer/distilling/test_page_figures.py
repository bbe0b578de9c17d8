"""Which α a page's held-out questions choose, and what they are measured at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llamacart.values.steering import UNSTEERED
from llamacart_trainer.distilling import page_figures as module
from llamacart_trainer.distilling.page import Page
from llamacart_trainer.distilling.page_figures import ALPHAS, Choice, PageJudge
from llamacart_trainer.recipe.turns import Exchange, Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = Page.of("Bo is a red cat. Bo has nine lives.", ["Bo"])
FIRST = [Exchange("Which colour has Bo?", PAGE.sentences[0])]
SECOND = [Exchange("How many lives has Bo?", PAGE.sentences[1])] * 2


class Reader:
    """Texts are their words."""

    def tokenize(self, text: str, *, add_special: bool = True) -> list[str]:
        return text.split()

    def opened(self, turns: Sequence[Turn]) -> list[str]:
        return [word for turn in turns for word in turn.content.split()]


@pytest.fixture
def judge() -> PageJudge:
    reader: Any = Reader()
    return PageJudge(PAGE, [Turn("system", "Bo is a red cat.")], reader, reader)


def test_each_half_is_measured_at_what_the_other_chooses(
    judge: PageJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The colour is likeliest at α 1, lives at 1.6, and all together at 1.3."""
    told = {"red": (-2.0, -4.0, -9.0), "nine": (-6.0, -3.0, -2.0)}

    def score(_model: Any, prompts: Any, answers: Any, *, steering: Any, **_: Any) -> list[Any]:
        at = ALPHAS.index(steering[0].alpha)
        return [
            np.array([next(own[at] for word, own in told.items() if word in answer), -1.0])
            for _prompt, answer in zip(prompts, answers, strict=True)
        ]

    monkeypatch.setattr(module, "log_likelihoods", score)
    monkeypatch.setattr(module, "Dose", Dose)
    points: list[None] = []
    choice = judge.choose(None, ALPHAS, [FIRST, SECOND], lambda: points.append(None))  # type: ignore[arg-type]
    assert choice == Choice(1.3, (1.6, 1.0))
    assert len(points) == len(ALPHAS)

    def said(_model: Any, _writer: Any, asked: Any, _n: int, *, steering: Any, **_: Any) -> Any:
        if steering is UNSTEERED:
            right = len(asked[0]) == 2  # turns: behind the page
            return [Exchange("", "is a red cat has nine lives" if right else "") for _ in asked]
        return [
            Exchange("", {1.6: "It is a red cat.", 1.0: "None."}[steering[0].alpha]) for _ in asked
        ]

    monkeypatch.setattr(module, "answer", said)
    found = judge.measure(None, choice, [FIRST, SECOND])  # type: ignore[arg-type]
    assert (found.cartridge.value, found.cartridge.n) == (pytest.approx(1 / 3), 3)
    assert (found.prompted.value, found.plain.value) == (1.0, 0.0)
    assert found.saved == 5
    assert found.sentence.startswith("At α 1 and 1.6 the cartridge answers 33% of 3 questions")


def test_who_has_chosen_is_not_asked() -> None:
    assert Choice.given(1.2) == Choice(1.2, (1.2, 1.2))


class Dose:
    """A strength."""

    def __init__(self, _cartridge: object, alpha: float) -> None:
        self.alpha = alpha
