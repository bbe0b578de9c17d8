"""From facts to token sequences: what is to be said, and what is to stay.

A fact's prompt stands behind several leads, so that it is not the beginning of the text that says
the object. Each token of the object is to follow what stands before it; the row in front of it is
tied. What ends the object is learnt with it: the end of the assistant's turn, and in a raw text the
full stop behind a number, which would go on as another one. So are the rows that end the subject.
Other texts on the subject that ask for the object are to go on with it, too, and those that ask for
something else are to go on as before.

Where the cartridge acts on all texts, the last row of the same prompt on another subject is tied
and to stay, and so are the rows that end that, and other subjects alone. All other rows of these
texts are neutral.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from llamacart_trainer.fitting.facts.wishes import after
from llamacart_trainer.recipe.facts import behind
from llamacart_trainer.recipe.pairing import PairedRows, tie
from llamacart_trainer.recipe.turns import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamacart_trainer.fitting.facts.phrasings import Phrasings
    from llamacart_trainer.recipe.facts import Fact
    from llamacart_trainer.recipe.pairing import Tokenize
    from llamacart_trainer.recipe.writer import Writer

    Text = tuple[int, ...]

LEADS = (
    "",
    "It rained all day. ",
    "Here is what we know so far.\n",
    "The book was long and rather dull, she said. ",
)
"""What a prompt stands behind."""

ABOUT = ("{}. ", "About {}: ")
"""The same with the subject in it."""

STOP = "."
"""What ends a number in a raw text."""

HELD = 0.25
"""How often a row of another subject counts, in rows that are to say something."""

BESIDE = 0.3
"""How often a row beside a tied one counts, in neutral rows."""


class Asks(Protocol):
    """From a text and what is to follow it to tokens."""

    def __call__(self, text: str, answer: str) -> tuple[Text, Text]:
        """Token ids of what stands before an answer, and of the answer with what ends it."""
        ...


def as_text(tokenize: Tokenize) -> Asks:
    """Of raw texts."""

    def ask(text: str, answer: str) -> tuple[Text, Text]:
        own = behind(text, answer) + (STOP if answer[-1:].isdigit() else "")
        before, whole = tuple(tokenize(text)), tuple(tokenize(text + own))
        if whole[: len(before)] == before:
            return before, whole[len(before) :]
        return before, tuple(tokenize(own, add_special=False))

    return ask


def as_message(writer: Writer) -> Asks:
    """Of a user's message and the answer to it."""

    def ask(text: str, answer: str) -> tuple[Text, Text]:
        written = writer.answered((Turn("user", text),), answer)
        return written.tokens[: written.start], written.tokens[written.start : written.end + 1]

    return ask


@dataclass(frozen=True)
class FactSamples:
    """What facts are fitted on.

    Attributes:
        groups: The samples of each fact.
        wanted: The token that is to follow each text.
        firsts: For each fact the texts that the first token of its object is to follow.
        subjects: For each text its rows that end a fact's subject, and the number of the first fact
            on that subject.
        leaders: For each fact the number of the first fact on its subject.
    """

    groups: list[list[PairedRows]]
    wanted: dict[Text, int]
    firsts: list[list[Text]]
    subjects: dict[Text, dict[int, int]]
    leaders: list[int]

    @classmethod
    def of(
        cls,
        facts: Sequence[Fact],
        neighbours: Sequence[Sequence[str]],
        phrasings: Sequence[Phrasings],
        ask: Asks,
        token_bytes: Callable[[int], bytes],
        acts: Callable[[Text], Sequence[bool]] | None = None,
    ) -> FactSamples:
        """Samples of some facts.

        Args:
            facts: What is to be said.
            neighbours: Other subjects for each. Every second one is asked of, the others stand
                alone.
            phrasings: Other texts on each one's subject.
            ask: From texts to tokens.
            token_bytes: What a token says.
            acts: Whether the cartridge acts on each row of a text; None for all.
        """
        said = [[ask(lead + fact.text, fact.object) for lead in leads(fact)] for fact in facts]
        found = cls(
            groups=[],
            wanted=after([own for texts in said for own in texts]),
            firsts=[[before for before, _ in texts] for texts in said],
            subjects={},
            leaders=[],
        )
        leaders: dict[str, int] = {}
        seen = set(found.wanted)
        for number, (fact, texts, others, own) in enumerate(
            zip(facts, said, neighbours, phrasings, strict=True)
        ):
            group = []
            leader = leaders.setdefault(fact.subject, number)
            found.leaders.append(leader)
            for asks, forms in ((True, own.same), (False, own.other)):
                for before, answer in (ask(text, fact.object) for text in forms):
                    if before in seen:  # what another fact says, or asks of the same subject
                        continue
                    seen.add(before)
                    ends = subject_rows(before, fact.subject, token_bytes)
                    found.subjects[before] = dict.fromkeys(ends, leader)
                    if asks:
                        found.wanted[before] = answer[0]
                        group += _tied(before, ends)
                        continue
                    group += [_stays(before, [len(before) - 1]), _beside(before, ends)]
                    if ends:
                        found.subjects[before[: ends[-1] + 1]] = dict.fromkeys(ends, leader)
                        group.append(_marked(before, ends))
            for before, answer in texts:
                ends = subject_rows(before, fact.subject, token_bytes)
                found.subjects[before] = dict.fromkeys(ends, leader)
                group += _tied(before, ends)
                longer = ((*before, *answer[:n]) for n in range(1, len(answer)))
                group += [tie(text, text, [(len(text) - 1,) * 2]) for text in longer]
            for n, other in enumerate(others):
                text = ask(other if n % 2 else fact.about(other), fact.object)[0]
                if text not in seen:  # another fact may ask the same of the same name
                    seen.add(text)
                    group += _held(text, subject_rows(text, other, token_bytes))
            found.groups.append([_acted_on(sample, acts) for sample in group] if acts else group)
        return found


def _acted_on(sample: PairedRows, acts: Callable[[Text], Sequence[bool]]) -> PairedRows:
    """Without neutral rows that will stay as they are of themselves."""
    if not sample.neutral:
        return sample
    on = acts(tuple(sample.source))
    rows = [row for row in sample.source_rows if on[row]]
    return replace(
        sample, source_rows=rows, target_rows=rows, weights=(sample.weights or [])[: len(rows)]
    )


def subject_rows(text: Text, subject: str, token_bytes: Callable[[int], bytes]) -> tuple[int, ...]:
    """Rows in which a subject ends, wherever it stands in a text; not the text's first or last."""
    pieces = [token_bytes(token) for token in text]
    ends = np.cumsum([len(piece) for piece in pieces])
    said, wanted = b"".join(pieces), subject.encode()
    found, start = [], said.find(wanted)
    while start >= 0:
        found.append(int(np.searchsorted(ends, start + len(wanted))))
        start = said.find(wanted, start + 1)
    return tuple(row for row in dict.fromkeys(found) if 0 < row < len(text) - 1)


def leads(fact: Fact) -> tuple[str, ...]:
    """What a fact's prompt stands behind."""
    return (*LEADS, *(form.replace("{}", fact.subject) for form in ABOUT))


def _marked(text: Text, ends: Sequence[int]) -> PairedRows:
    """The rows that end a subject, beside as much of the text: what comes behind it counts not."""
    return tie(text, text[: ends[-1] + 1], [(row, row) for row in ends])


def _held(text: Text, ends: Sequence[int]) -> list[PairedRows]:
    """A text whose last row and those that end its subject are to stay as they are."""
    return [_stays(text, [*ends, len(text) - 1]), _beside(text, ends)]


def _stays(text: Text, rows: list[int]) -> PairedRows:
    """Tied rows that are to stay as they are.

    They are compared with nothing: what stands for their target is two tokens that cost little.
    """
    nothing = (text[0],) * 2
    tied = tie(text, nothing, [(row, 1) for row in rows])
    return replace(tied, weights=[HELD] * len(rows))


def _tied(text: Text, ends: Sequence[int]) -> list[PairedRows]:
    """A text's last row and those that end its subject, and its other rows but the first."""
    rows = (*ends, len(text) - 1)
    return [tie(text, text, [(row, row) for row in rows]), _beside(text, ends)]


def _beside(text: Text, ends: Sequence[int]) -> PairedRows:
    """The rows of a text but its first and last and those that end its subject."""
    rows = [row for row in range(1, len(text) - 1) if row not in ends]
    return PairedRows(text, text, rows, rows, neutral=True, weights=[BESIDE] * len(rows))
