"""Whether numba can keep what it compiles, so that the next start need not compile it again."""

from __future__ import annotations

import numba


def can_keep() -> bool:
    """Whether there is a folder for compiled code; numba refuses to compile for keeps without.

    It looks in NUMBA_CACHE_DIR, beside the package and in the user's cache folder.
    """
    try:
        numba.njit(cache=True)(_nothing)
    except RuntimeError:
        return False
    return True


def _nothing() -> None:
    """Compiled by nobody."""


KEEP = can_keep()
"""What every compiled function passes as `cache`: without a folder, each start compiles anew
(seconds)."""
