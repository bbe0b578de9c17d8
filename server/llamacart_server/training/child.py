"""The process of a job: runs a command of llamacart for as long as its parent lives.

The parent holds the other end of its standard input and never writes to it. When the parent is
gone, however it went, the system closes that end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from llamacart import cli

if TYPE_CHECKING:
    from collections.abc import Callable


def end_self() -> None:
    """End this process at once, whatever it computes."""
    os.kill(os.getpid(), signal.SIGTERM)


def when_closed(descriptor: int, act: Callable[[], None]) -> threading.Thread:
    """Act once the other end of a pipe is closed.

    Args:
        descriptor: The end that is read.
        act: Called from the thread that this starts and returns.
    """

    def wait() -> None:
        while os.read(descriptor, 1024):
            pass
        act()

    thread = threading.Thread(target=wait, name="parent", daemon=True)
    thread.start()
    return thread


def main() -> None:
    """Run the command that the arguments name."""
    when_closed(sys.stdin.fileno(), end_self)
    cli.main()


if __name__ == "__main__":
    main()
