"""From token bytes to text that can be sent: whole characters, and never a stop string.

Text ends before the stop string that is complete first; of several that are complete at
the same character, before the longest. So the result does not depend on how the text
was cut into tokens, and no later character can change what has been sent.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def cut_at_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where `text` is to be cut: the start of its first complete stop string, or None."""
    found = [(start + len(s), start) for s in stops if (start := text.find(s)) >= 0]
    return min(found)[1] if found else None


def held_back(text: str, stops: Sequence[str]) -> int:
    """Length of the longest suffix of `text` that begins a stop string without completing it."""
    longest = min(len(text), max((len(s) - 1 for s in stops), default=0))
    for length in range(longest, 0, -1):
        suffix = text[-length:]
        if any(len(s) > length and s.startswith(suffix) for s in stops):
            return length
    return 0


class TextStream:
    """Text of one generation.

    Args:
        stops: Strings that end it; none is empty.

    Attributes:
        stopped: Whether a stop string has been met; nothing more comes out then.
        n_decoded: Characters that whole bytes have come for, sent or held back.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        # Bytes that are no UTF-8 become U+FFFD, as in `Model.detokenize`.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self.stopped = False
        self.n_decoded = 0

    def push(self, piece: bytes) -> str:
        """Add the bytes of a token; return the text that is now sure to be wanted."""
        return self._add(self._decoder.decode(piece))

    def finish(self) -> str:
        """Return what was held back, once no more tokens come."""
        text = self._add(self._decoder.decode(b"", final=True)) + self._pending
        self._pending = ""
        return text

    def _add(self, text: str) -> str:
        if self.stopped:
            return ""
        self._pending += text
        self.n_decoded += len(text)
        cut = cut_at_stop(self._pending, self._stops)
        if cut is not None:
            self.stopped = True
            out, self._pending = self._pending[:cut], ""
            return out
        keep = len(self._pending) - held_back(self._pending, self._stops)
        out, self._pending = self._pending[:keep], self._pending[keep:]
        return out
