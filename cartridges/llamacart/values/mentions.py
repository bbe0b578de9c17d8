"""Doses that wait until one of some texts has been said, and what acts on each row because of it.

Whether a row is acted on follows from the tokens up to it alone. So rows of equal tokens under
equal steering have equal keys and values, whoever computed them, and nothing has to be remembered
beside the tokens.

A text is said where its bytes stand, letter for letter, and no ASCII letter or digit of the text
around them goes on with theirs: `Rom` is not said in `Rome`. A row whose token ends the text is
acted on before it is known how the text goes on.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llamacart.values.steering import Steering

_WORD = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")

AHEAD = 512
"""Tokens that are looked at beyond a row that is asked for: together they cost less, and no step
has many more rows."""

When = tuple[str, ...]
"""Texts one of which must have been said; the empty tuple means always."""


class Mentions:
    """Finds the rows of one growing text at which one of some texts has been said.

    Args:
        texts: They; at least one, none of them empty.
    """

    def __init__(self, texts: When) -> None:
        self._texts = frozenset(text.encode() for text in texts)
        self._lengths = sorted({len(text) for text in self._texts})
        self._since: int | None = None
        self._alone: set[int] = set()

    def read(self, said: bytearray, ends: Sequence[int], n_known: int) -> None:
        """Look at what is new.

        Args:
            said: The whole text so far.
            ends: Where each token's bytes end in it, ascending.
            n_known: How many of the tokens were there at the last call.
        """
        if self._since is not None:
            return
        known = ends[n_known - 1] if n_known else 0
        for start, stop in sorted(self._places(said, known)):
            self._take(said, ends, start, stop)

    def _places(self, said: bytearray, known: int) -> Iterator[tuple[int, int]]:
        """Where texts stand that end behind `known` bytes, or with them: it can be told now."""
        if (len(said) - known + 1) * len(self._lengths) < len(self._texts):
            # A few bytes, as of a token, are sooner looked up than many names are searched for.
            for stop in range(known, len(said) + 1):
                for length in self._lengths:
                    if length <= stop and bytes(said[stop - length : stop]) in self._texts:
                        yield stop - length, stop
            return
        begin = max(0, known - self._lengths[-1])
        for text in self._texts:
            place = said.find(text, begin)
            while place >= 0:
                yield place, place + len(text)
                place = said.find(text, place + 1)

    def _take(self, said: bytearray, ends: Sequence[int], start: int, stop: int) -> None:
        """Note one place at which a text stands."""
        if start > 0 and said[start - 1] in _WORD and said[start] in _WORD:
            return
        row = bisect_left(ends, stop)
        goes_on = stop < len(said) and said[stop] in _WORD and said[stop - 1] in _WORD
        if stop < len(said) and not goes_on:
            self._since = row if self._since is None else min(self._since, row)
            return
        while row < len(ends) and ends[row] == stop:
            self._alone.add(row)
            row += 1

    def at(self, row: int) -> bool:
        """Whether the row of a token that was read is acted on."""
        return (self._since is not None and row >= self._since) or row in self._alone


def acting_rows(
    tokens: Sequence[int], when: When, token_bytes: Callable[[int], bytes]
) -> list[bool]:
    """Whether each row of a sequence is acted on.

    Args:
        tokens: The sequence.
        when: What is waited for; not empty.
        token_bytes: The bytes of a token.
    """
    pieces = [token_bytes(token) for token in tokens]
    ends = list(accumulate(map(len, pieces)))
    mentions = Mentions(when)
    mentions.read(bytearray(b"".join(pieces)), ends, 0)
    return [mentions.at(row) for row in range(len(tokens))]


class RowSteering:
    """What acts on each row of one sequence.

    Args:
        steering: What acts on its rows where nothing is waited for.
        token_bytes: The bytes of a token.
    """

    def __init__(self, steering: Steering, token_bytes: Callable[[int], bytes]) -> None:
        self._steering = steering
        self._token_bytes = token_bytes
        conditions = dict.fromkeys(dose.condition for dose in steering if dose.condition)
        self._mentions = {condition: Mentions(condition) for condition in conditions}
        self._said = bytearray()
        self._ends: list[int] = []
        # Rows that are steered alike share the tuple itself: the hook knows it by identity.
        self._known: dict[tuple[bool, ...], Steering] = {}

    def at(self, tokens: Sequence[int], row: int) -> Steering:
        """What acts on a row.

        Args:
            tokens: Those of the sequence so far, that row's and more; they only ever grow.
            row: Its position.
        """
        if not self._mentions:
            return self._steering
        if row >= len(self._ends):
            self._read(tokens[len(self._ends) : row + 1 + AHEAD])
        act = tuple(
            not dose.condition or self._mentions[dose.condition].at(row) for dose in self._steering
        )
        found = self._known.get(act)
        if found is None:
            doses = zip(self._steering, act, strict=True)
            found = self._known[act] = tuple(dose for dose, acts in doses if acts)
        return found

    def _read(self, tokens: Sequence[int]) -> None:
        """Take in the next tokens."""
        n_known = len(self._ends)
        for token in tokens:
            self._said += self._token_bytes(token)
            self._ends.append(len(self._said))
        for mentions in self._mentions.values():
            mentions.read(self._said, self._ends, n_known)
