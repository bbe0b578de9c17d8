"""Comments in event streams that are silent for long, so that no proxy closes them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COMMENT = b": keep-alive\n\n"


class KeepAliveMiddleware:
    """Writes a comment into each `text/event-stream` after every `seconds` without an event.

    Each body message of such a stream must hold whole events.

    Args:
        app: What is surrounded.
        seconds: Of silence, above 0.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        last = loop.time()
        writer: asyncio.Task[None] | None = None

        async def write_comments() -> None:
            nonlocal last
            with suppress(OSError):  # the client is gone; the app learns it by itself
                while True:
                    await asyncio.sleep(last + self._seconds - loop.time())
                    if loop.time() >= last + self._seconds:
                        last = loop.time()
                        await send(
                            {"type": "http.response.body", "body": COMMENT, "more_body": True}
                        )

        async def send_noting(message: Message) -> None:
            nonlocal last, writer
            last = loop.time()
            if writer is not None and not message.get("more_body"):
                writer.cancel()
            await send(message)
            if message["type"] == "http.response.start" and _is_stream(message):
                writer = asyncio.ensure_future(write_comments())

        try:
            await self._app(scope, receive, send_noting)
        finally:
            if writer is not None:
                writer.cancel()


def _is_stream(message: Message) -> bool:
    return Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
