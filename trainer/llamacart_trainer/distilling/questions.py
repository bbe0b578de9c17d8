"""Questions about a page that the model writes itself.

A small model that is only told to ask says the sentence again, or talks about it. So each sentence
comes behind a conversation of a few sentences about another place, each with its question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import regex

from llamacart_trainer.recipe.turns import Turn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llamacart_trainer.distilling.page import Page

QUESTION_TOKENS = 40

EXAMPLES = (
    "The museum of Halden opens at nine.",
    "Grete Moll is the director of the museum of Halden.",
    "The roof of the museum of Halden is made of copper.",
    "The cat in the museum of Halden is called Figaro.",
)
"""Sentences about another place."""

ASKED: dict[str, tuple[str, ...]] = {
    'Write one question that is answered by this sentence: "{}"': (
        "When does the museum of Halden open?",
        "Who is the director of the museum of Halden?",
        "What is the roof of the museum of Halden made of?",
        "What is the name of the cat in the museum of Halden?",
    ),
    'Which question does this sentence answer? Write the question alone: "{}"': (
        "At what time can one go into the museum of Halden?",
        "Who leads the museum of Halden?",
        "Which material covers the roof of the museum of Halden?",
        "How do people in the museum of Halden call the cat?",
    ),
    'Ask briefly for what this sentence says: "{}"': (
        "Do you know when the museum of Halden opens?",
        "Can you tell me who the director of the museum of Halden is?",
        "Could you say what the roof of the museum of Halden is made of?",
        "Do you know the name of the cat in the museum of Halden?",
    ),
}
"""What the model is asked for questions by, each with the question of each example."""


def asked_for(page: Page) -> list[list[tuple[tuple[Turn, ...], str]]]:
    """Conversations that ask the model for a question, and the sentence that each is about.

    The examples come in both orders: the last one is imitated most.

    Returns:
        Lists of them; those of one list begin alike, so that their beginning is computed once.
    """
    named = [sentence for sentence in page.sentences if page.named(sentence)]
    lists = []
    for form, questions in ASKED.items():
        shown = list(zip(EXAMPLES, questions, strict=True))
        for order in (shown, shown[::-1]):
            turns = [
                turn
                for example, question in order
                for turn in (Turn("user", form.format(example)), Turn("assistant", question))
            ]
            lists.append([((*turns, Turn("user", form.format(one))), one) for one in named])
    return lists


def questions_in(page: Page, given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Questions that the model has written, and the sentence that answers each.

    A text is one from its beginning to its first question mark. It must name what the sentence
    names, and must leave something of the sentence to be said. A question for two sentences asks
    for neither.

    Args:
        page: The page.
        given: Sentences, and what the model wrote about them.
    """
    found: dict[str, set[str]] = {}
    for sentence, text in given:
        match = regex.match(r"[^?？\n]*[?？]", text.strip().lstrip("\"'“‘„«*-– "))
        question = match[0].strip() if match else ""
        names = set(page.named(question)) & set(page.named(sentence))
        if names and _leaves(page, sentence, question):
            found.setdefault(question, set()).add(sentence)
    return {question: one for question, (one, *more) in found.items() if not more}


def _leaves(page: Page, sentence: str, question: str) -> bool:
    """Whether a question does not say all that is the sentence's own."""
    return not page.own_words(sentence, "") or bool(page.own_words(sentence, question))
