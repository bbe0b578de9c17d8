"""A page's sentences, its names, and which sentence answers a question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llamacart.errors import InputError
from llamacart_trainer.distilling import page as module
from llamacart_trainer.distilling.page import Page, answer_by_sentences, words
from llamacart_trainer.recipe.turns import Exchange, Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXT = """The river of Ostrel is the Ambel. Ostrel was founded in 1214.
Hotel Linde has "30 rooms." Guests of Hotel Linde get soup! Nobody lives here."""


def test_a_page_is_read_by_sentences_and_names() -> None:
    page = Page.of(TEXT)
    assert page.sentences == (
        "The river of Ostrel is the Ambel.",
        "Ostrel was founded in 1214.",
        'Hotel Linde has "30 rooms."',
        "Guests of Hotel Linde get soup!",
        "Nobody lives here.",
    )
    assert page.names == ("Hotel Linde", "Ostrel")
    assert page.about("What does Hotel Linde have?") == page.sentences[2:4]
    assert page.about("What is there?") == ()


def test_words_that_only_begin_sentences_are_no_names() -> None:
    page = Page.of("Our town is Bo. Our hill is high. Bo is old. Old Bo sleeps.")
    assert page.names == ("Bo",)


def test_names_may_be_given_in_any_script() -> None:
    page = Page.of("月は石です。月は遠い。太陽は熱い。", ["月"])
    assert (len(page.sentences), page.names) == (3, ("月",))
    assert page.about("月は何ですか") == page.sentences[:2]


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        (" \n", (), "the page has no text"),
        ("It is so. Nothing more.", (), "no name with a capital letter .* by --when"),
        (TEXT, ("Velm",), "--when has value 'Velm', which the page does not hold"),
    ],
)
def test_a_page_that_names_nothing_is_refused(
    text: str, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Page.of(text, names)


def test_own_words_are_said_nowhere_else() -> None:
    page = Page.of(TEXT)
    asked = "When was Ostrel founded?"
    assert page.own_words(page.sentences[1], asked) == {"1214", "in"}
    assert words("L'Été, 9 000") == {"l", "été", "9", "000"}


class Reader:
    """Says of which words a text is."""

    def tokenize(self, text: str, *, add_special: bool = True) -> list[str]:
        return text.split()

    def opened(self, turns: Sequence[Turn]) -> list[str]:
        return turns[-1].content.split()


def test_a_question_is_answered_by_the_sentence_that_it_makes_likelier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def score(_model: Any, prompts: Any, answers: Any, **_: Any) -> list[Any]:
        """A longer sentence is less likely; a word of the question makes each likelier."""
        shared = (len(set(p) & set(a)) for p, a in zip(prompts, answers, strict=True))
        return [np.array([n - 5.0 * len(a)]) for n, a in zip(shared, answers, strict=True)]

    monkeypatch.setattr(module, "log_likelihoods", score)
    page, reader = Page.of(TEXT), Reader()
    questions = ["is the river of Ostrel long?", "Ostrel was when?", "what soup! get Hotel Linde"]
    found = answer_by_sentences(page, reader, reader, questions)  # type: ignore[arg-type]
    assert found == [
        Exchange(questions[0], page.sentences[0]),
        Exchange(questions[1], page.sentences[1]),
        Exchange(questions[2], page.sentences[3]),
    ]
