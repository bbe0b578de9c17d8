"""The server's life as requests see it: welcome or not, and for how long an answer may go on."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from llamacart.errors import OverloadedError
from llamacart_server.errors import RequestTimeoutError, error_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp, Receive, Scope, Send

ALWAYS_OPEN = frozenset({"/health", "/ready", "/metrics"})
LAST_WORDS_SECONDS = 2.0
"""For the error events of answers that are ended."""


class Lifecycle:
    """Whether requests are welcome, which are open, and the time limit of answers.

    All but `close` is for the event loop.

    Args:
        answer_seconds: Most seconds of one answer; 0 means no limit.
    """

    def __init__(self, answer_seconds: float = 0) -> None:
        self._answer_seconds = answer_seconds
        self._started = False
        self._closed = False
        self._ending = False
        self._n_open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._answers: set[asyncio.Timeout] = set()

    @property
    def ready(self) -> bool:
        """Whether requests are welcome: not before start-up has ended, nor while it drains."""
        return self._started and not self._closed

    @property
    def draining(self) -> bool:
        """Whether new requests are refused because the server is about to stop."""
        return self._closed

    def start(self) -> None:
        """Welcome requests."""
        self._started = True

    def close(self) -> None:
        """Refuse new requests from now on; may be called by a signal handler."""
        self._closed = True

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new requests, and return when no request is open any more.

        Args:
            grace_seconds: How long open requests may go on; answers that are still being
                written then end with an `OverloadedError`.
        """
        self.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace_seconds)
            return
        self._ending = True
        for limit in self._answers:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), LAST_WORDS_SECONDS)

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """Surrounds the making of an answer, in the task that makes it.

        Raises:
            RequestTimeoutError: It took longer than an answer may.
            OverloadedError: The server stops, and its grace period is over.
        """
        if self._ending:
            raise self._stopping()
        try:
            async with asyncio.timeout(self._answer_seconds or None) as limit:
                self._answers.add(limit)
                try:
                    yield
                finally:
                    self._answers.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise (self._stopping() if self._ending else self._too_long()) from None

    @staticmethod
    def _stopping() -> OverloadedError:
        return OverloadedError("the server is stopping")

    def _too_long(self) -> RequestTimeoutError:
        return RequestTimeoutError(
            f"the answer took longer than {self._answer_seconds:g} s, which is the server's limit"
        )

    def enter(self) -> None:
        """Count a request in."""
        self._n_open += 1
        self._idle.clear()

    def leave(self) -> None:
        """Count it out."""
        self._n_open -= 1
        if not self._n_open:
            self._idle.set()


class DrainMiddleware:
    """Counts open requests, and refuses new ones while the server drains.

    Probes and metrics are neither counted nor refused.

    Args:
        app: What is surrounded.
        lifecycle: Says whether requests are welcome.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] in ALWAYS_OPEN:
            await self._app(scope, receive, send)
            return
        if self._lifecycle.draining:
            response = error_response(OverloadedError("the server is stopping"))
            response.headers["Connection"] = "close"  # so that a retry finds another server
            await response(scope, receive, send)
            return
        self._lifecycle.enter()
        try:
            await self._app(scope, receive, send)
        finally:
            self._lifecycle.leave()
