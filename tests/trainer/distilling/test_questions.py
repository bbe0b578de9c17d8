"""Questions that the model writes about a page."""

from __future__ import annotations

from llamacart_trainer.distilling.page import Page
from llamacart_trainer.distilling.questions import ASKED, EXAMPLES, asked_for, questions_in

TEXT = """The river of Ostrel is the Ambel. Ostrel was founded in 1214.
Hotel Linde has "30 rooms." Guests of Hotel Linde get soup! Nobody lives here."""


def test_each_sentence_that_names_something_is_asked_about_in_each_way() -> None:
    page = Page.of(TEXT)
    lists = asked_for(page)
    assert len(lists) == 2 * len(ASKED)  # both orders of the examples
    for asked in lists:
        assert [sentence for _, sentence in asked] == list(page.sentences[:4])
        beginnings = {turns[:-1] for turns, _ in asked}
        assert len(beginnings) == 1  # so that it is computed once
        (before,) = beginnings
        assert [turn.role for turn in before] == ["user", "assistant"] * len(EXAMPLES)
        for turns, sentence in asked:
            assert sentence in turns[-1].content


def test_the_examples_would_be_taken_themselves() -> None:
    page = Page.of(" ".join(EXAMPLES), ["Halden"])
    given = [
        (example, question)
        for questions in ASKED.values()
        for example, question in zip(EXAMPLES, questions, strict=True)
    ]
    assert questions_in(page, given) == {question: example for example, question in given}


def test_questions_of_the_model_are_sifted() -> None:
    page = Page.of(TEXT)
    river, founded, rooms, *_ = page.sentences
    written = [
        (river, ' "Which river flows through Ostrel?" It is the Ambel.'),
        (river, "Where is Ostrel?"),
        (founded, "Where is Ostrel?"),  # asks for neither
        (founded, "The year of Ostrel\nWhen?"),  # no question in its first line
        (founded, "Was Ostrel founded in 1214?"),  # leaves nothing to be said
        (rooms, "How many rooms are there?"),  # names nothing
        (rooms, "What does Hotel Linde have?\nHotel Linde has rooms?"),
    ]
    assert questions_in(page, written) == {
        "Which river flows through Ostrel?": river,
        "What does Hotel Linde have?": rooms,
    }
