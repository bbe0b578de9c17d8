"""Which messages are to train on, to choose by and to test on: always the same ones."""

from __future__ import annotations

import hashlib
from typing import Literal

Part = Literal["train", "validation", "test"]

_TENTHS: tuple[Part, ...] = ("test", "validation", *(("train",) * 8))


def part_of(prompt: str) -> Part:
    """The part that a message belongs to, of ten one to test on and one to choose by.

    It depends on the message alone, so that more messages move none from one part to another.
    """
    digest = hashlib.sha256(prompt.strip().casefold().encode()).digest()
    return _TENTHS[int.from_bytes(digest[:8], "big") % len(_TENTHS)]
