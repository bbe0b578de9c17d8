"""A uvicorn server that answers while it drains, and stops at once when told twice.

It also stops by itself when what it serves has failed.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer
import uvicorn

from llamacart_server.middleware.lifecycle import LAST_WORDS_SECONDS

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from types import FrameType

    from llamacart_server.middleware.lifecycle import Lifecycle

CLOSING_SECONDS = 5
"""For connections to take what is written, once all requests have been answered."""


class DrainingServer(uvicorn.Server):
    """Drains at the first SIGTERM or SIGINT, and stops at once at the second.

    While it drains it goes on listening, so that probes and new requests get a 503. uvicorn's own
    server would close its sockets, and raise the signal again at the end, which would stop
    the process before its engine is.

    Args:
        config: See uvicorn.
        lifecycle: What is drained.
        grace_seconds: How long open answers may go on.
        greeting: Printed once it listens.

    Attributes:
        failed: Whether `fail` was called.
    """

    def __init__(
        self, config: uvicorn.Config, lifecycle: Lifecycle, grace_seconds: float, greeting: str
    ) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._grace_seconds = grace_seconds
        self._greeting = greeting
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: asyncio.Task[None] | None = None
        self.failed = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        typer.echo(self._greeting)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close everything; the app learns of it also where that is done by force."""
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals here while the server runs."""
        previous = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        del sig, frame
        if self._loop is None:  # nothing has been taken on yet
            self.should_exit = True
        elif not self._lifecycle.draining:
            self._lifecycle.close()
            self._loop.call_soon_threadsafe(self._begin)
        else:
            self.should_exit = self.force_exit = True
            self._loop.call_soon_threadsafe(self._cut)

    def fail(self) -> None:
        """What is served has failed: say so to whoever is there, and stop. For any thread."""
        self.failed = True
        self._lifecycle.close()
        if self._loop is None:
            self.should_exit = True
            return
        with suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._give_up)

    def _give_up(self) -> None:
        self._drain = asyncio.ensure_future(self._drain_and_exit(LAST_WORDS_SECONDS))

    def _begin(self) -> None:
        self._drain = asyncio.ensure_future(self._drain_and_exit(self._grace_seconds))

    def _cut(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def _drain_and_exit(self, grace_seconds: float) -> None:
        await self._lifecycle.drain(grace_seconds)
        self.should_exit = True
