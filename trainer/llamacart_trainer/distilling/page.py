"""A page of facts, and the questions that its sentences answer.

A small model finds one fact among twenty badly. So it does not answer behind the whole page: each
question is answered by the one sentence that says it. Which one, the model tells: the sentence
whose log-likelihood as an answer the question raises most above that behind a question for nothing
in particular (the pointwise mutual information of question and answer).

The cartridge waits for the names in the page: no other text changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import regex

from llamacart.errors import InputError
from llamacart.passes.scoring import log_likelihoods
from llamacart_trainer.recipe.turns import Exchange, Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart.llama.model import Model
    from llamacart_trainer.recipe.writer import Writer

OFTEN = 2
"""Sentences that a name stands in, at least, to be waited for without being given."""

_SENTENCE = regex.compile(r"(?<=[.!?…]['\"”’»)\]]*)\s+(?=\S)|(?<=[。！？]['\"”’」』）]*)|\n+")
_CAPITALISED = r"\p{Lu}[\p{L}\p{M}\p{N}'’&-]*"
_NAME = regex.compile(rf"{_CAPITALISED}(?:\s+{_CAPITALISED})*")
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")


@dataclass(frozen=True)
class Page:
    """A text of facts.

    Attributes:
        sentences: They, in their order, each once.
        names: What a question must name; the cartridge waits for it.
    """

    sentences: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, text: str, names: Sequence[str] = ()) -> Page:
        """Read a page.

        Args:
            text: The page.
            names: What its questions name; none for the capitalised names that stand in `OFTEN`
                of its sentences.

        Raises:
            InputError: It has no sentence or no such name, or one that it does not hold.
        """
        sentences = tuple(dict.fromkeys(filter(None, map(str.strip, _SENTENCE.split(text)))))
        if not sentences:
            raise InputError("the page has no text")
        for name in names:
            if name not in text:
                raise InputError(f"--when has value {name!r}, which the page does not hold")
        found = tuple(names) or _names(sentences)
        if not found:
            raise InputError(
                f"no name with a capital letter stands in {OFTEN} sentences of the page; say what "
                "its questions name, by --when"
            )
        return cls(sentences, found)

    def named(self, text: str) -> tuple[str, ...]:
        """The page's names that stand in a text."""
        return tuple(name for name in self.names if name in text)

    def about(self, message: str) -> tuple[str, ...]:
        """Sentences that name what a message names."""
        named = self.named(message)
        return tuple(s for s in self.sentences if any(name in s for name in named))

    def own_words(self, sentence: str, message: str) -> frozenset[str]:
        """What a sentence says that neither the other sentences nor a message say, as words."""
        others = (text for text in (*self.sentences, message) if text != sentence)
        return words(sentence) - frozenset[str]().union(*map(words, others))


def words(text: str) -> frozenset[str]:
    """The words of a text, in lower case."""
    return frozenset(_WORD.findall(text.casefold()))


def answer_by_sentences(
    page: Page,
    model: Model,
    writer: Writer,
    messages: Sequence[str],
    *,
    n_threads: int | None = None,
) -> list[Exchange]:
    """Each message with the sentence that answers it.

    Args:
        page: The page.
        model: Tells which sentence it is.
        writer: Writes conversations for it.
        messages: Questions, each of which names what some sentence names.
        n_threads: Threads for compute.
    """
    asked = [(message, page.about(message)) for message in messages]
    said = {s: model.tokenize(s, add_special=False) for _, some in asked for s in some}
    nothing = {s: f"Tell me something about {page.named(s)[0]}." for s in said}
    pairs = [(message, s) for message, some in asked for s in some]
    likely = log_likelihoods(
        model,
        [
            writer.opened([Turn("user", text)])
            for text in (*nothing.values(), *(m for m, _ in pairs))
        ],
        [*said.values(), *(said[s] for _, s in pairs)],
        n_threads=n_threads,
    )
    sums = [float(scores.sum()) for scores in likely]
    before = dict(zip(nothing, sums, strict=False))
    gains = [total - before[s] for total, (_, s) in zip(sums[len(said) :], pairs, strict=True)]
    ends = accumulate(len(some) for _, some in asked)
    return [
        Exchange(message, some[int(np.argmax(gains[end - len(some) : end]))])
        for (message, some), end in zip(asked, ends, strict=True)
    ]


def _names(sentences: Sequence[str]) -> tuple[str, ...]:
    """Capitalised names in several sentences, the most frequent first.

    The word that begins a sentence has a capital anyway: it belongs to a name where that stands
    inside of another sentence, too.
    """
    places = [(n, m[0], m.start()) for n, s in enumerate(sentences) for m in _NAME.finditer(s)]
    inside = {name for _, name, start in places if start > 0}
    stands: dict[str, set[int]] = {}
    for number, name, start in places:
        own = name if start > 0 or name in inside else name.partition(" ")[2]
        if own:
            stands.setdefault(own, set()).add(number)
    often = [name for name, where in stands.items() if len(where) >= OFTEN]
    return tuple(sorted(often, key=lambda name: (-len(stands[name]), name)))
