"""The word that was meant by one that nobody knows."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def did_you_mean(value: object, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """What to say behind a message of a value that is none of those known.

    Args:
        value: The value.
        known: Those known.
        cutoff: How alike they must be, 0 to 1.

    Returns:
        `; did you mean 'x'?`, or nothing where none is near or the value is no text.
    """
    if not isinstance(value, str):
        return ""
    names = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(value.casefold(), names, n=1, cutoff=cutoff)
    return f"; did you mean {names[near[0]]!r}?" if near else ""
