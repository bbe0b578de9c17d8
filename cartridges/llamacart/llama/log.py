"""llama.cpp's log, turned into Python's `logging`."""

from __future__ import annotations

import ctypes
import logging
from collections import deque
from functools import cache
from typing import Any

import llama_cpp

logger = logging.getLogger("llamacart.llama_cpp")
# Its warnings are remarks on the model file, a dozen at every load: not news to a user.
_LEVELS = {2: logging.DEBUG, 3: logging.INFO, 4: logging.WARNING}
_errors: deque[str] = deque(maxlen=8)


@llama_cpp.llama_log_callback
def _receive(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    line = text.decode("utf-8", "replace").rstrip()
    if not line or line == ".":
        return
    if level >= 4:
        _errors.append(line)
    # Loading prints hundreds of info lines: they are debug output to a user of this project.
    logger.log(_LEVELS.get(level, logging.DEBUG), "%s", line)


@cache
def install() -> None:
    """Route llama.cpp's messages here; safe to call again."""
    llama_cpp.llama_log_set(_receive, ctypes.c_void_p(0))


def drain_errors() -> list[str]:
    """Return and forget the error lines since the last call."""
    lines: list[Any] = list(_errors)
    _errors.clear()
    return lines
