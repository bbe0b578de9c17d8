"""Ctrl-C while llama.cpp calls back into Python.

Python raises `KeyboardInterrupt` where it next runs, and that is the first line of the callback.
ctypes prints an exception that leaves a callback and drops it, so that the interrupt would be lost,
and a layer with it.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType


class HeldInterrupt:
    """Holds Ctrl-C back between `begin` and `end`; does nothing on other threads than the main."""

    def __init__(self) -> None:
        self.seen = False
        """Whether it has come since `begin`."""
        self._before: Any = None

    def begin(self) -> None:
        """Only note it from now on."""
        self.seen = False
        if threading.current_thread() is threading.main_thread() and self._before is None:
            before = signal.getsignal(signal.SIGINT)
            if callable(before):
                self._before = before
                signal.signal(signal.SIGINT, self._note)

    def end(self) -> None:
        """Do what is due, as a rule to raise `KeyboardInterrupt`."""
        before, self._before = self._before, None
        if before is None:
            return
        signal.signal(signal.SIGINT, before)
        if self.seen:
            before(signal.SIGINT, None)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.seen = True
