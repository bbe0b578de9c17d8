"""From conversations to samples: the last answer is tied, what stands before it is context.

Tied are the rows of the answer and of what ends its turn. Where the two conversations differ
before the answer, the last rows before it are tied too: they choose its first words. Rows of the
student's own context are neutral, so that a map leaves alone what it only reads; so are, by
`identity`, those of an answer that is as it should be.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llamacart.errors import InputError, RecipeError
from llamacart_trainer.fitting.alignment import align
from llamacart_trainer.recipe.pairing import PAIRINGS, TIES, PairedRows, tie
from llamacart_trainer.recipe.turns import Turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llamacart.llama.model import Model
    from llamacart_trainer.recipe.distilled import DistilledPrompt
    from llamacart_trainer.recipe.turns import ChatPair, Exchange
    from llamacart_trainer.recipe.writer import Writer, Written

HEADER_ROWS = 2
"""Rows before an answer that choose how it begins."""

_BEFORE = -1
"""Stands for the whole context in front of an answer, as pairings leave their first row out."""


@dataclass(frozen=True)
class ConversationSamples:
    """Pairs the rows of conversations.

    Attributes:
        model: Tokenises, and tells which rows are alike.
        writer: Writes conversations for it.
        n_threads: Threads for compute.
    """

    model: Model
    writer: Writer
    n_threads: int | None = None

    def of_pairs(
        self, pairs: Sequence[ChatPair], pairings: Sequence[str]
    ) -> Iterator[list[PairedRows]]:
        """For each pair its samples by every pairing, and its context.

        Args:
            pairs: Two conversations each.
            pairings: Names of pairings.

        Raises:
            RecipeError: The model's template refuses the turns.
        """
        aligned = self._aligned(pairs) if "align" in pairings else iter(())
        for number, pair in enumerate(pairs):
            try:
                source = self.writer.answered(pair.source, pair.source_answer)
                target = self.writer.answered(pair.target, pair.target_answer)
            except InputError as error:
                raise RecipeError(f"pair {number}: {error.message}") from error
            samples = []
            for name in pairings:
                if name == "suffix":
                    samples.append(tie_same(source, target))
                elif name == "identity":
                    own = self.writer.answered(pair.source, pair.target_answer)
                    runs = tuple(own.tokens) == tuple(target.tokens)
                    samples.append(replace(_neutral(own.tokens, own.start), untouched=runs))
                else:
                    tied = next(aligned) if name == "align" else self._tied(name, pair, number)
                    samples.append(_placed(tied, source, target))
            context = samples[0].source
            yield [*samples, _neutral(context, 1, source.start - HEADER_ROWS)]

    def of_answer(self, prompt: DistilledPrompt, exchange: Exchange) -> list[PairedRows]:
        """An answer behind its question alone, tied to itself behind the prompt; and its context.

        Raises:
            InputError: The model's template refuses the turns.
        """
        plain, prompted = (
            self.writer.answered(turns, exchange.text, ended=exchange.ended)
            for turns in ((Turn("user", exchange.prompt),), prompt.asked(exchange.prompt))
        )
        tied = tie_same(plain, prompted)
        return [tied, _neutral(plain.tokens, 1, plain.start - HEADER_ROWS)]

    def of_neutral(self, exchange: Exchange) -> PairedRows:
        """A question and its answer that are to stay as they are.

        Raises:
            InputError: The model's template refuses the turns.
        """
        turns = (Turn("user", exchange.prompt),)
        written = self.writer.answered(turns, exchange.text, ended=exchange.ended)
        return _neutral(written.tokens, 1)

    def _tied(self, name: str, pair: ChatPair, number: int) -> PairedRows:
        """Ties of the answers alone, each with one row in front."""

        def tokenize(text: str, *, add_special: bool = True) -> list[int]:
            if not add_special:
                return self.model.tokenize(text, add_special=False)
            written = self.writer.answered(pair.source, text, ended=False)
            return [_BEFORE, *written.tokens[written.start :]]

        return PAIRINGS[name](tokenize, pair.source_answer, pair.target_answer, number)

    def _aligned(self, pairs: Sequence[ChatPair]) -> Iterator[PairedRows]:
        """The same by `align`, which reads whole conversations."""
        sides = [
            [self.writer.answered(turns, text, ended=False) for turns, text in side]
            for side in (
                [(pair.source, pair.source_answer) for pair in pairs],
                [(pair.target, pair.target_answer) for pair in pairs],
            )
        ]
        both = list(zip(*sides, strict=True))
        found = align(
            self.model,
            [(source.tokens, target.tokens) for source, target in both],
            starts=[(source.start, target.start) for source, target in both],
            n_threads=self.n_threads,
        )
        for (source, target), tied in zip(both, found, strict=True):
            rows = [(i - source.start + 1, j - target.start + 1) for i, j in tied.rows]
            left, right = source.tokens[source.start :], target.tokens[target.start :]
            yield tie((_BEFORE, *left), (_BEFORE, *right), rows)


def tie_same(source: Written, target: Written) -> PairedRows:
    """The same answer behind two contexts, tied token by token with the rows that begin it."""
    most = min(len(w.tokens) - w.start for w in (source, target)) + HEADER_ROWS
    rows = TIES["suffix"](source.tokens, target.tokens).rows[-most:]
    return tie(source.tokens, target.tokens, rows)


def _placed(tied: PairedRows, source: Written, target: Written) -> PairedRows:
    """Ties of answers behind their contexts, with what ends their turns."""
    left, right = source.tokens[: source.start], target.tokens[: target.start]
    ends = source.tokens[source.end :], target.tokens[target.end :]
    tokens = (*left, *tied.source[1:], *ends[0]), (*right, *tied.target[1:], *ends[1])
    more = len(left) - 1, len(right) - 1
    source_rows, target_rows = (
        [row + plus for row in own]
        for own, plus in zip((tied.source_rows, tied.target_rows), more, strict=True)
    )
    both = [(len(tokens[0]) - n, len(tokens[1]) - n) for n in range(len(ends[0]), 0, -1)]
    if left != right:
        header = range(min(HEADER_ROWS, *more), 0, -1)
        both += [(len(left) - n, len(right) - n) for n in header]
    return replace(
        tied,
        source=tokens[0],
        target=tokens[1],
        source_rows=[*source_rows, *(i for i, _ in both)],
        target_rows=[*target_rows, *(j for _, j in both)],
    )


def _neutral(tokens: Sequence[int], start: int, stop: int | None = None) -> PairedRows:
    """Rows of a text that are to stay as they are.

    The first row of a text, to which all others attend, is for neutral texts to hold in its
    place: in conversations it is the same row again and again.
    """
    rows = range(max(1, start), len(tokens) if stop is None else stop)
    return tie(tokens, tokens, [(i, i) for i in rows], neutral=True)
