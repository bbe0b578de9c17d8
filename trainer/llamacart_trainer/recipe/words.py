"""Where a text may be cut, in every script, and whether a phrase stands in it whole.

Boundaries are Unicode's: words of UAX #29, classes of UAX #14. A script with spaces is cut before
a space alone, so that "l'homme" and "well-known!" stay whole. Chinese, Japanese, Thai, Lao, Khmer
and Burmese write no spaces between words; they may be cut wherever UAX #29 sees a boundary, but
not before what closes a sentence or a bracket. A user-perceived character is never cut.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import regex

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNSPACED = r"[\p{Line_Break=ID}\p{Line_Break=CJ}\p{Line_Break=SA}\u0F0B]"
"""Characters of scripts without spaces (UAX #14), and Tibetan's mark between syllables."""

_OPENING = r"[\p{Ps}\p{Pi}\p{Logical_Order_Exception}]"
"""Brackets and quotation marks that open, and vowels that are written before their consonant."""

_SPACE = r"[\s--\p{Line_Break=GL}]"
"""White space at which a line may break; French glues its exclamation marks with another."""

_BEFORE_SPACE = rf"(?<!{_SPACE}|^)(?={_SPACE}+\S)"
_UNSPACED_WORD = (
    rf"\b(?<![\s{_OPENING}])(?=[\w{_OPENING}])(?:(?={_UNSPACED})|(?<={_UNSPACED}\p{{P}}*))"
)
_CUT = regex.compile(rf"{_BEFORE_SPACE}|{_UNSPACED_WORD}", regex.V1 | regex.WORD | regex.DOTALL)

_UNSPACED_END = regex.compile(rf"(?:{_UNSPACED}|{_OPENING}|\s)\p{{M}}*$", regex.V1)

_CHARACTER = regex.compile(r"\X")


def pieces(text: str) -> list[str]:
    """A text in the pieces between which it may be cut; joined, they are the text.

    A piece is a word with the space before it and the marks around it; in a script without
    spaces, what UAX #29 takes for a word, which is mostly one character. A text that may nowhere
    be cut is one piece.
    """
    cuts = {found.start() for found in _CUT.finditer(text)}
    # Burmese stacks consonants, which is one character of several words to UAX #29.
    cuts &= {found.start() for found in _CHARACTER.finditer(text)}
    places = [0, *sorted(cuts - {0}), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


def beginning(text: str, share: float, least: int = 1) -> str:
    """The first pieces of a text.

    Args:
        text: Any text.
        share: How many, as a share of its pieces, to the nearest number.
        least: Fewest pieces.
    """
    found = pieces(text)
    return "".join(found[: max(least, round(len(found) * share))])


def space_behind(text: str) -> str:
    """What stands between a text and the next word: a space, or nothing.

    Nothing stands behind white space, an opening bracket or quotation mark, and a script without
    spaces.
    """
    return "" if not text or _UNSPACED_END.search(text) else " "


def any_of(phrases: Sequence[str]) -> regex.Pattern[str] | None:
    """A pattern that finds one of some phrases whole, without regard to case; None for none.

    A phrase is whole where no letter or digit touches it, or where UAX #29 sees a boundary. So
    "cat" is not in "concatenate", but "你好" is in "他说你好吗", and "!" is in "Arr!".
    """
    if not phrases:
        return None
    choices = "|".join(map(regex.escape, phrases))
    return regex.compile(
        rf"(?:(?<!\w)|\b)(?:{choices})(?:(?!\w)|\b)", regex.V1 | regex.WORD | regex.IGNORECASE
    )
