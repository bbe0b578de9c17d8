"""What every command shares at the terminal: one line for what goes wrong, and an exit code.

Exit codes: 0 done, 1 the command's own verdict, 2 it cannot be done, 130 stopped by Ctrl-C, 141
nobody reads the output any more.
"""

from __future__ import annotations

import functools
import io
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console

from llamacart.errors import LlamacartError, OutputError, ReaderGoneError, StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def plain_console() -> Console:
    """Where commands print. It takes no text for markup: a file's name may hold `[…]`."""
    return Console(markup=False)


def run(command: Callable[[], object]) -> None:
    """Run a command; what was to be expected is told in one line on stderr.

    Expected are the project's own errors, what the system refuses (`OSError`), and Ctrl-C. All
    else is a fault of the program and comes with its traceback.

    Raises:
        SystemExit: The command has ended otherwise than by returning.
    """
    with _streams():
        try:
            try:
                command()
            finally:
                _flush()
        except LlamacartError as error:
            _end(f"{error.label}: {error.message}" if error.message else "", error.exit_code)
        except OSError as error:
            where = f"{error.filename!r}: " if error.filename is not None else ""
            _end(f"error: {where}{error.strerror or error}", LlamacartError.exit_code)
        except KeyboardInterrupt:
            _end("stopped", StoppedError.exit_code)
        except SystemExit as stop:
            if stop.code == StoppedError.exit_code:  # click makes this of a Ctrl-C
                _end("stopped", StoppedError.exit_code)
            raise


def tells(
    what_stays: Callable[[Mapping[str, Any]], str], *, full_disk: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let a command say, where it is stopped by Ctrl-C, what stays and how to go on.

    Args:
        what_stays: Called then with the command's arguments by name; a clause.
        full_disk: Say so too behind what could not be written, and where nobody reads the output.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def telling(**given: Any) -> Any:
            try:
                return command(**given)
            except KeyboardInterrupt as error:
                raise StoppedError(what_stays(given)) from error
            except ReaderGoneError as error:
                if full_disk:
                    error.message = f"nobody reads the output; {what_stays(given)}"
                raise
            except LlamacartError as error:
                if full_disk and isinstance(error.__cause__, OSError):
                    error.message += f"; {what_stays(given)}"
                raise

        return telling

    return decorate


class _Output(io.FileIO):
    """A file descriptor whose refusals are an `OutputError`, raised once and on the main thread.

    A thread that draws a progress bar would end in a traceback, and Python's last flush too.
    """

    _refusal: OSError | None = None
    _told = False

    def write(self, data: Any, /) -> int:
        size = memoryview(data).nbytes
        if not size:  # click asks so what kind of stream it has, and takes errors for an answer
            return 0
        if self._refusal is None:
            try:
                return super().write(data)
            except OSError as error:
                self._refusal = error
        self.check()
        return size

    def check(self) -> None:
        """Raise what has been refused and not told yet."""
        on_main = threading.current_thread() is threading.main_thread()
        if self._refusal is not None and not self._told and on_main:
            self._told = True
            if isinstance(self._refusal, BrokenPipeError):
                raise ReaderGoneError("") from self._refusal
            reason = self._refusal.strerror or self._refusal
            raise OutputError(f"standard output: {reason}") from self._refusal


@contextmanager
def _streams() -> Iterator[None]:
    """Streams that write `?` for what their encoding lacks, and fail by `OutputError`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    before = sys.stdout
    if isinstance(before, io.TextIOWrapper):
        sys.stdout = _guarded(before)
    try:
        yield
    finally:
        with suppress(LlamacartError):
            _flush()
        sys.stdout = before


def _guarded(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """A stream to the same file that fails as `_Output` does; where there is no file, itself."""
    unbuffered = isinstance(stream.buffer, io.FileIO)
    if not unbuffered and not isinstance(getattr(stream.buffer, "raw", None), io.FileIO):
        return stream
    output = _Output(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        output if unbuffered else io.BufferedWriter(output),
        encoding=stream.encoding,
        errors="replace",
        line_buffering=bool(stream.line_buffering),
        write_through=bool(stream.write_through),
    )


def _flush() -> None:
    if sys.stdout is None:
        return
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    output = getattr(buffer, "raw", buffer)
    if isinstance(output, _Output):
        output.check()


def _end(line: str, code: int) -> None:
    with suppress(OSError, AttributeError):  # stderr may be closed, and is then None
        sys.stderr.write(f"{line}\n" if line else "")
        sys.stderr.flush()
    raise SystemExit(code)
