"""Facts as tokens, for peers that learn from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacart_trainer.evaluation.prompts.conversation import PromptWriter
from llamacart_trainer.recipe.facts import SLOT
from llamacart_trainer.recipe.names import builtin_names, builtin_phrasings
from llamacart_trainer.recipe.recipe import builtin_neutral
from llamacart_trainer.recipe.writer import common_beginning

if TYPE_CHECKING:
    from llamacart.llama.model import Model
    from llamacart_trainer.recipe.facts import Fact

_LONGEST = 64
"""Characters of a sentence that may stand before a statement."""


@dataclass(frozen=True)
class Said:
    """A text as tokens.

    Attributes:
        tokens: Token ids, the first of the model's text included.
        start: Number of the first token of the object; the length where there is none.
        subject_end: Number of the subject's last token.
    """

    tokens: tuple[int, ...]
    start: int
    subject_end: int


def statement(model: Model, fact: Fact, before: str = "") -> Said:
    """A fact's prompt with its object, behind a sentence or not."""
    writer = PromptWriter(model)
    text = before + fact.text
    prompt = writer.tokens(text)
    until = before + fact.prompt.partition(SLOT)[0] + fact.subject
    return Said(
        (*prompt, *writer.answer(text, fact.object)),
        len(prompt),
        last_token_of(model, text, until),
    )


def essence(model: Model, fact: Fact) -> Said:
    """What MEMIT would have stay as it is: the subject's name, and "is a" behind it."""
    text = f"{fact.subject} is a"
    tokens = tuple(model.tokenize(text))
    return Said(tokens, len(tokens), last_token_of(model, text, fact.subject))


def last_token_of(model: Model, text: str, beginning: str) -> int:
    """Number of the token of a text in which its beginning ends."""
    if not beginning or not text.startswith(beginning):
        raise ValueError(f"{beginning!r} is not how {text!r} begins")
    alone = model.tokenize(beginning)
    # Where the beginning alone is cut otherwise, the first other token holds its end.
    return min(common_beginning(model.tokenize(text), alone), len(alone) - 1)


def sentences(count: int) -> tuple[str, ...]:
    """Short sentences that ship with the trainer, each with a space behind it."""
    prose = builtin_neutral(english=True)[len(builtin_neutral()) :]
    short = [text for text in prose if len(text) <= _LONGEST and text.endswith(".")]
    return tuple(f"{text} " for text in short[:count])


def questions() -> tuple[str, ...]:
    """Texts that ask for something of names that ship with the trainer, three names a text."""
    names = builtin_names()
    asked = []
    for number, phrasing in enumerate(builtin_phrasings()):
        of_kind = [name.text for name in names if name.kind == phrasing.kind]
        asked += [
            phrasing.text.replace(SLOT, of_kind[(number * 3 + i) % len(of_kind)]) for i in range(3)
        ]
    return tuple(asked)


def other_texts() -> tuple[str, ...]:
    """Texts that know nothing of any fact: prose, code, and questions about names that ship."""
    return (*builtin_neutral(english=True), *questions())
