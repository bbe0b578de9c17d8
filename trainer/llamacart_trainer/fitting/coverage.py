"""What the writer of a recipe should know of its texts: pairs that give few rows, cut answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacart.errors import RecipeError
from llamacart_trainer.recipe.records import where_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart_trainer.recipe.pairing import PairedRows
    from llamacart_trainer.recipe.recipe import Task
    from llamacart_trainer.recipe.turns import Exchange

FEW_ROWS = 4
"""A pair that gives fewer is told of; a recipe whose pairs give fewer together is refused."""

FEW_SHARE = 0.2
"""So is a pair that gives less of its shorter text's tokens: `handover` gives 0.35 at least."""

MANY_CUT = 0.25
"""Share of a prompt's answers above which it is told what to do about those that are cut."""

NAMED = 3
"""Most pairs that a notice names."""


@dataclass(frozen=True)
class Coverage:
    """Rows of one pair.

    Attributes:
        where: File and line, or the pair's number.
        rows: Different rows that are tied to teach something.
        share: Part of the shorter sequence's rows, BOS apart, that are tied or are neutral; the
            largest of its samples'.
    """

    where: str
    rows: int
    share: float

    @property
    def few(self) -> bool:
        """Whether the pair gives so little that its writer should know."""
        return self.rows < FEW_ROWS or self.share < FEW_SHARE

    def __str__(self) -> str:
        return f"{self.where} ({self.rows} row{'s' * (self.rows != 1)}, {self.share:.0%})"


def cover(task: Task, samples: Sequence[PairedRows]) -> list[Coverage]:
    """What each pair of a task gives, in order; nothing for what a prompt was answered with."""
    names = [where_of(pair.source, f"pair {n}") for n, pair in enumerate(task.pairs)]
    names += [where_of(chat.source_answer, f"pair {n}") for n, chat in enumerate(task.chats)]
    groups: list[list[PairedRows]] = [[] for _ in names]
    for sample in samples:
        if sample.group < len(names):
            groups[sample.group].append(sample)
    return [_cover(name, group) for name, group in zip(names, groups, strict=True)]


def check_coverage(task: Task, samples: Sequence[PairedRows]) -> str | None:
    """What to tell of pairs that give few rows; None where none does.

    Raises:
        RecipeError: The pairs give nearly none together, or most of them give none.
    """
    found = cover(task, samples)
    if not found:
        return None
    total, name = sum(own.rows for own in found), f"recipe {task.recipe.name!r}"
    empty = [own for own in found if not own.rows]
    if total < FEW_ROWS or 2 * len(empty) > len(found):
        raise RecipeError(
            f"{name}: its pairs give {total} paired row{'s' * (total != 1)}, and {len(empty)} of "
            f"{len(found)} give none; {_advice(task)}"
        )
    few = [own for own in found if own.few]
    if not few:
        return None
    named = ", ".join(map(str, few[:NAMED])) + ", …" * (len(few) > NAMED)
    verb = "gives" if len(few) == 1 else "give"
    return f"{len(few)} of {len(found)} pairs {verb} few rows: {named}; {_advice(task)}"


def check_answers(task: Task, answers: Sequence[Exchange]) -> str | None:
    """What to tell of answers behind a prompt that did not end; None where all did.

    The rows that end an answer teach a cartridge to end; an answer that is cut has none.
    """
    cut = cut_answers(answers)
    if not cut:
        return None
    recipe = task.recipe
    where = f" at {recipe.answer_tokens} tokens" if recipe.answers is None else ""
    told = f"{cut} of {len(answers)} answers {'was' if cut == 1 else 'were'} cut{where}"
    if cut < MANY_CUT * len(answers):
        return told
    return (
        f"{told}, and teach the cartridge no end: raise answer_tokens in recipe.toml, and let it "
        "name no answers, so that the model gives new ones; or ask for short ones in the prompt"
    )


def cut_answers(answers: Sequence[Exchange]) -> int:
    """How many of some answers say something and did not end."""
    return sum(not answer.ended and answer.text.strip() != "" for answer in answers)


def _cover(where: str, samples: Sequence[PairedRows]) -> Coverage:
    rows, share = 0, 0.0
    for sample in samples:
        if sample.neutral:
            continue
        rows += len(set(sample.rows))
        tied, source = set(sample.source_rows), tuple(sample.source)
        for other in samples:
            if other.neutral and tuple(other.source) == source:
                tied |= set(other.source_rows)
        length = min(len(sample.source), len(sample.target)) - 1
        share = max(share, len(tied - {0}) / max(1, length))
    return Coverage(where, rows, min(share, 1.0))


def _advice(task: Task) -> str:
    """What to do about it."""
    return f"longer texts, or another pairing than {' and '.join(task.recipe.pairing)}, give more"
