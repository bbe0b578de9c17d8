"""From a pair of texts to token sequences whose rows are tied one to one.

A pairing is a function; a recipe names one or more, and the rows of all of them are fitted
together.

`position` is the paper's. It says what the first words of a text should look like, but ties
unrelated words further on, and the map never sees its own product: at run time most rows are
tokens that the steered model has already written in the target's manner. `handover` and
`identity` tie such rows exactly and teach the map where to stop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


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
        rows: (source row, target row); a row may repeat, and then counts as often.
    """

    source: Sequence[int]
    target: Sequence[int]
    rows: Sequence[tuple[int, int]]


Pairing = Callable[[Tokenize, str, str, int], PairedRows]
"""(tokenize, source text, target text, number of the pair) → paired rows."""

HANDOVER_SHARES = (0.35, 0.65)
"""Where `handover` cuts, as a share of the words, in turn from pair to pair."""

BOUNDARY_WEIGHT = 3
"""Times the row at the cut counts: it alone ties the source's manner to the target's."""


def position(tokenize: Tokenize, source: str, target: str, number: int) -> PairedRows:  # noqa: ARG001
    """Source text against target text, row by row, cut to the shorter (the paper)."""
    return tie_positions(tokenize(source), tokenize(target))


def identity(tokenize: Tokenize, source: str, target: str, number: int) -> PairedRows:  # noqa: ARG001
    """Target text against itself: what already has the target's manner is to stay as it is."""
    tokens = tokenize(target)
    return tie_positions(tokens, tokens)


def handover(tokenize: Tokenize, source: str, target: str, number: int) -> PairedRows:
    """Source that goes over into the target's words, against the target alone.

    This is what the model reads at run time: a prompt in its own manner, then what it was steered
    to say. The shared continuation is tied token by token, and the last row before it, where both
    texts have said the same, to its counterpart. The two languages' word order is taken to run
    roughly in parallel, so that a cut at the same share of the words is a cut at the same place.
    """
    source_words, target_words = source.split(" "), target.split(" ")
    share = HANDOVER_SHARES[number % len(HANDOVER_SHARES)]
    head = " ".join(source_words[: max(1, round(len(source_words) * share))])
    cut = max(1, round(len(target_words) * share))
    tail = tokenize(" " + " ".join(target_words[cut:]), add_special=False)
    left, right = tokenize(head), tokenize(" ".join(target_words[:cut]))
    rows = [(len(left) - 1, len(right) - 1)] * BOUNDARY_WEIGHT
    rows += [(len(left) + i, len(right) + i) for i in range(len(tail))]
    return PairedRows([*left, *tail], [*right, *tail], rows)


def tie_positions(left: Sequence[int], right: Sequence[int]) -> PairedRows:
    """Tie row i to row i, up to the shorter sequence.

    The first row (BOS, where the model has one) is left out: it holds no text, and its huge
    activations would dominate the fit.
    """
    return PairedRows(left, right, [(i, i) for i in range(1, min(len(left), len(right)))])


PAIRINGS: dict[str, Pairing] = {
    "position": position,
    "identity": identity,
    "handover": handover,
}
