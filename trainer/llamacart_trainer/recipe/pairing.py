"""From a pair of texts to token sequences whose rows are tied to each other.

A pairing is a function; a recipe names one or more, and the rows of all of them are fitted
together.

`position` is the paper's. It says what the first words of a text should look like, but ties
unrelated words further on, and the map never sees its own product: at run time most rows are
tokens that the steered model has already written in the target's manner. `handover` and
`identity` tie such rows exactly and teach the map where to stop. `relative` stretches the shorter
text to the longer one's length. `suffix` compares a text with itself behind a context, so that
each row has exactly one counterpart: what the context did to it. `distribution` ties nothing.
`llamacart_trainer.fitting.alignment` has the one pairing that has to look at activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from llamacart.errors import RecipeError
from llamacart_trainer.recipe.words import pieces


class Tokenize(Protocol):
    """`Model.tokenize`, or a stand-in."""

    def __call__(self, text: str, *, add_special: bool = True) -> list[int]:
        """Token ids of `text`."""
        ...


@dataclass(frozen=True)
class PairedRows:
    """Two token sequences and which of their rows belong together.

    Attributes:
        source: Token ids whose activations are mapped.
        target: Token ids whose activations are aimed at.
        source_rows: Rows of `source` [N]; a row may repeat, and then counts as often.
        target_rows: Rows of `target`, each the counterpart of the source row at its place; of any
            number where they are not `paired`.
        neutral: The rows are there to stay as they are: they teach locality.
        untouched: The rows are those that the model has of the text where no cartridge acts, which
            have been computed where the text is also a target. Only for neutral rows.
        paired: Whether rows are tied one to one.
        group: Samples of one number say the same, and are held out together.
        weights: How often each source row counts [N]; None means once. Only where rows are
            paired.
    """

    source: Sequence[int]
    target: Sequence[int]
    source_rows: Sequence[int]
    target_rows: Sequence[int]
    neutral: bool = False
    paired: bool = True
    group: int = 0
    weights: Sequence[float] | None = None
    untouched: bool = False

    @property
    def rows(self) -> list[tuple[int, int]]:
        """(source row, target row) of rows that are tied."""
        return list(zip(self.source_rows, self.target_rows, strict=self.paired))


Tie = Callable[[Sequence[int], Sequence[int]], PairedRows]
"""(source tokens, target tokens) → tied rows."""

Pairing = Callable[[Tokenize, str, str, int], PairedRows]
"""(tokenize, source text, target text, number of the pair) → tied rows."""

HANDOVER_SHARES = (0.35, 0.65)
"""Where `handover` cuts, as a share of the words, in turn from pair to pair."""

PLACES = 8
"""Most places that are looked at for one that no token reaches across."""

BOUNDARY_WEIGHT = 3
"""Times the row at the cut counts: it alone ties the source's manner to the target's."""


# --- ties of two token sequences ------------------------------------------------------------


def tie(
    source: Sequence[int],
    target: Sequence[int],
    rows: Sequence[tuple[int, int]],
    *,
    neutral: bool = False,
) -> PairedRows:
    """Paired rows from (source row, target row) tuples."""
    left, right = [i for i, _ in rows], [j for _, j in rows]
    return PairedRows(source, target, left, right, neutral)


def tie_positions(left: Sequence[int], right: Sequence[int]) -> PairedRows:
    """Tie row i to row i, up to the shorter sequence.

    The first row (BOS, where the model has one) is left out: it holds no text, and its huge
    activations would dominate the fit.
    """
    return tie(left, right, [(i, i) for i in range(1, min(len(left), len(right)))])


def tie_shares(left: Sequence[int], right: Sequence[int]) -> PairedRows:
    """Tie each source row to the target row at the same share of the text, without BOS.

    Row i (from 1) of n has read i/n of its text; its counterpart is the first target row that has
    read as much. The ties are monotone and the last rows are tied to each other.
    """
    n, m = len(left) - 1, len(right) - 1
    if n < 1 or m < 1:
        return tie(left, right, [])
    return tie(left, right, [(i, -(-i * m // n)) for i in range(1, n + 1)])


def tie_suffix(left: Sequence[int], right: Sequence[int]) -> PairedRows:
    """Tie the longest run of tokens that both sequences end in, token by token, without BOS."""
    n = 0
    while n < min(len(left), len(right)) - 1 and left[-1 - n] == right[-1 - n]:
        n += 1
    return tie(left, right, [(len(left) - i, len(right) - i) for i in range(n, 0, -1)])


def tie_nothing(left: Sequence[int], right: Sequence[int]) -> PairedRows:
    """All rows of both but BOS, as two unordered sets."""
    rows = range(1, len(left)), range(1, len(right))
    return PairedRows(left, right, *rows, paired=False)


TIES: dict[str, Tie] = {
    "position": tie_positions,
    "relative": tie_shares,
    "suffix": tie_suffix,
    "distribution": tie_nothing,
}
"""Pairings that look at nothing but the tokens, and so at the model's own continuations too."""


# --- pairings of two texts ------------------------------------------------------------------


def position(tokenize: Tokenize, source: str, target: str, number: int) -> PairedRows:  # noqa: ARG001
    """Source text against target text, row by row, cut to the shorter (the paper)."""
    return tie_positions(tokenize(source), tokenize(target))


def relative(tokenize: Tokenize, source: str, target: str, number: int) -> PairedRows:  # noqa: ARG001
    """Source text against target text, rows tied at the same share of the length."""
    return tie_shares(tokenize(source), tokenize(target))


def suffix(tokenize: Tokenize, source: str, target: str, number: int) -> PairedRows:
    """A text against the same text behind a context, tied token by token.

    It distils a system prompt or a document into a cartridge: each row is to become what the
    context would have made of it. Whichever of the two texts is longer holds the context.

    Raises:
        RecipeError: Neither text ends in the other, or they share no token at the end.
    """
    check_suffix(source, target, f"pair {number}")
    paired = tie_suffix(tokenize(source), tokenize(target))
    if not paired.source_rows:
        raise RecipeError(f"pair {number}: source {source!r} and target end in different tokens")
    return paired


def distribution(tokenize: Tokenize, source: str, target: str, number: int) -> PairedRows:  # noqa: ARG001
    """All rows of either text, not tied: for solvers that move one distribution to another."""
    return tie_nothing(tokenize(source), tokenize(target))


def identity(tokenize: Tokenize, source: str, target: str, number: int) -> PairedRows:  # noqa: ARG001
    """Target text against itself: what already has the target's manner is to stay as it is.

    Its rows are the unsteered model's, which run as targets anyway. What the layers before make of
    such text, `handover` shows.
    """
    return replace(neutral_text(tokenize, target), untouched=True)


def handover(tokenize: Tokenize, source: str, target: str, number: int) -> PairedRows:
    """Source that goes over into the target's words, against the target alone.

    This is what the model reads at run time: a prompt in its own manner, then what it was steered
    to say. The shared continuation is tied token by token, and the last row before it, where both
    texts have said the same, to its counterpart. The two languages' word order is taken to run
    roughly in parallel, so that a cut at the same share of the words is a cut at the same place.
    """
    share = HANDOVER_SHARES[number % len(HANDOVER_SHARES)]
    left = tokenize(cut(tokenize, source, share)[0])
    right, tail = _cut_tokens(tokenize, *cut(tokenize, target, share))
    rows = [(len(left) - 1, len(right) - 1)] * BOUNDARY_WEIGHT
    rows += [(len(left) + i, len(right) + i) for i in range(len(tail))]
    return tie([*left, *tail], [*right, *tail], rows)


def cut(tokenize: Tokenize, text: str, share: float) -> tuple[str, str]:
    """Head and tail of a text, cut at a share of its words; joined, they are the text.

    Where words have no spaces between them, the model's own tokens tell what belongs together: of
    the nearest places, the first that no token reaches across is taken. The tail is empty where
    the text may nowhere be cut.
    """
    found = pieces(text)
    ideal = min(max(1, round(len(found) * share)), max(1, len(found) - 1))
    nearest = sorted(range(1, len(found)), key=lambda place: abs(place - ideal))[:PLACES]
    whole = tokenize(text, add_special=False)
    for place in nearest:
        head = "".join(found[:place])
        tokens = tokenize(head, add_special=False)
        if found[place][0].isspace() or tokens == whole[: len(tokens)]:
            return head, "".join(found[place:])
    return "".join(found[:ideal]), "".join(found[ideal:])


def _cut_tokens(tokenize: Tokenize, head: str, tail: str) -> tuple[list[int], list[int]]:
    """Tokens of a text that is cut, as the whole text has them where no token is in both parts."""
    left, whole = tokenize(head), tokenize(head + tail)
    if tail and whole[: len(left)] == left:
        return left, whole[len(left) :]
    return left, tokenize(tail, add_special=False) if tail else []


def neutral_text(tokenize: Tokenize, text: str) -> PairedRows:
    """A text that the cartridge is to leave alone, against itself.

    Its first row counts too: every sequence begins with BOS, to which all later rows attend, so a
    step there is felt everywhere.
    """
    tokens = tokenize(text)
    return tie(tokens, tokens, [(i, i) for i in range(len(tokens))], neutral=True)


def check_suffix(source: str, target: str, where: str) -> None:
    """Refuse two texts of which neither ends in the other; `where` begins the message.

    Raises:
        RecipeError: They cannot be paired by `suffix`.
    """
    if not (target.endswith(source) or source.endswith(target)) or source == target:
        raise RecipeError(
            f"{where}: pairing 'suffix' needs one text that ends in the other; source has value "
            f"{source!r} and target has value {target!r}"
        )


PAIRINGS: dict[str, Pairing] = {
    "position": position,
    "relative": relative,
    "suffix": suffix,
    "distribution": distribution,
    "identity": identity,
    "handover": handover,
}
"""Pairings of two texts; `align` is missing, since it needs a model."""
