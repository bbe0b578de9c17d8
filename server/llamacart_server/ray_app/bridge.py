"""An ASGI application asked by calls that carry the whole request, and answering in messages."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import ASGIApp, Message, Scope

START = "http.response.start"
BODY = "http.response.body"
_LENGTHS = (b"content-length", b"content-encoding", b"transfer-encoding")


def plain_scope(scope: Scope, body: bytes, request_id: str) -> dict[str, Any]:
    """What another process needs to know of a request whose body has been read and decompressed.

    Args:
        scope: Of the request.
        body: All of it.
        request_id: That the answer is to carry.
    """
    headers = [(k, v) for k, v in scope["headers"] if k not in (*_LENGTHS, b"x-request-id")]
    headers.append((b"content-length", str(len(body)).encode()))
    headers.append((b"x-request-id", request_id.encode()))
    kept = ("http_version", "method", "scheme", "path", "query_string", "client", "server")
    # Version 2.3: whoever listens for the client's leaving is told.
    asgi = {"version": "3.0", "spec_version": "2.3"}
    plain = {key: scope[key] for key in kept if key in scope}
    return {**plain, "type": "http", "asgi": asgi, "root_path": "", "headers": headers}


async def answered(app: ASGIApp, scope: Scope, body: bytes) -> AsyncGenerator[Message]:
    """The messages with which `app` answers; pieces that wait together come as one.

    Closing the generator, or cancelling whoever waits for it, is to `app` a client that leaves.

    Raises:
        Exception: What `app` raises.
    """
    messages: asyncio.Queue[Message | None] = asyncio.Queue()
    gone = asyncio.Event()
    given = False

    async def receive() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        messages.put_nowait(message)
        await asyncio.sleep(0)

    task = asyncio.ensure_future(app(scope, receive, send))
    task.add_done_callback(lambda _: messages.put_nowait(None))
    try:
        while (message := await messages.get()) is not None:
            yield _joined(message, messages) if message["type"] == BODY else message
        await task
    finally:
        gone.set()
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


def _joined(first: Message, waiting: asyncio.Queue[Message | None]) -> Message:
    """Pieces of a body that wait one behind the other."""
    pieces, more = [first.get("body", b"")], first.get("more_body", False)
    while more and not waiting.empty():
        following = waiting.get_nowait()
        if following is None:  # the application ends without having ended the body
            waiting.put_nowait(None)
            break
        pieces.append(following.get("body", b""))
        more = following.get("more_body", False)
    return {"type": BODY, "body": b"".join(pieces), "more_body": more}
