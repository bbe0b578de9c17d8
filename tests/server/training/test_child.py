"""The process of a job: it runs a command, and ends when its parent has gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from llamacart import __version__
from llamacart_server.training import child

LONG = """
import threading
from llamacart import cli
from llamacart_server.training import child
cli.main = lambda: (print("begun", flush=True), threading.Event().wait())
child.main()
"""


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603
        [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_it_runs_a_command_of_llamacart() -> None:
    with start("-m", child.__name__, "--version") as process:
        assert process.stdout is not None
        assert process.stdout.read() == f"llamacart {__version__}\n"
    assert process.returncode == 0


def test_it_ends_when_its_parent_has_gone() -> None:
    with start("-c", LONG) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "begun\n"
        process.stdin.close()  # as the system does for a parent that was killed
        assert process.wait(60) == -signal.SIGTERM


def test_what_is_written_to_it_does_not_end_it() -> None:
    reader, writer = os.pipe()
    closed = threading.Event()
    thread = child.when_closed(reader, closed.set)
    os.write(writer, b"a")
    assert not closed.is_set()
    os.close(writer)
    assert closed.wait(60)
    thread.join(60)
    os.close(reader)
