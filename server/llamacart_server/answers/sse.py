"""Server-sent events, and answers that end when their client goes away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, TypeVar

from fastapi.responses import Response

from llamacart_server.errors import error_json, log_failure, unexpected

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.types import Receive, Scope, Send

    from llamacart.errors import LlamacartError
    from llamacart_server.answers.answer import Answer, Piece

T = TypeVar("T")


class Emit(Protocol):
    """Writes one event: JSON text, and a name where the protocol gives events names."""

    async def __call__(self, data: str, name: str | None = None) -> None:
        """See class."""
        ...


DONE = "[DONE]"
# Many clients (httpx's `iter_lines`) end a line there; in JSON they stand only inside strings.
_LINE_BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for its log; nobody is left to read it."""


class ClientGoneError(Exception):
    """The client has closed its connection."""


async def while_connected(receive: Receive, work: Coroutine[object, object, T]) -> T:
    """Await `work`, cancelling it when the client goes away.

    Args:
        receive: The request's channel, its body already read.
        work: What the client waits for.

    Raises:
        ClientGoneError: The client went away first.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def collect_pieces(receive: Receive, answer: Answer) -> list[Piece] | None:
    """The whole of every choice, or None where the client left before; frees what is left."""
    try:
        return await while_connected(receive, answer.collect())
    except ClientGoneError:
        return None
    finally:
        answer.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def emit_error(error: LlamacartError, emit: Emit) -> None:
    """The event that tells of an error in all of OpenAI's older streams."""
    await emit(error_json(error))


class EventStream(Response):
    """An answer of server-sent events.

    An error of `produce` becomes the last events. Either way, and also where the client goes
    away before the first byte, `on_end` is called once `produce` has ended.

    Args:
        produce: Writes the events, by what it is called with.
        on_end: Frees what the answer holds.
        on_error: Writes what tells of an error.
        done: Data of an event after all others, if there is to be one.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        produce: Callable[[Emit], Coroutine[object, object, None]],
        on_end: Callable[[], None],
        *,
        on_error: Callable[[LlamacartError, Emit], Coroutine[object, object, None]] = emit_error,
        done: str | None = DONE,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._produce = produce
        self._on_end = on_end
        self._on_error = on_error
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        del scope

        async def emit(data: str, name: str | None = None) -> None:
            if not data.isascii():
                data = data.translate(_LINE_BREAKS)
            head = f"event: {name}\n" if name else ""
            body = f"{head}data: {data}\n\n".encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})

        async def write() -> None:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            try:
                await self._produce(emit)
            except OSError:  # from send: the client is gone
                raise
            except Exception as error:
                log_failure(error)
                await self._on_error(unexpected(error), emit)
            if self._done is not None:
                await emit(self._done)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await while_connected(receive, write())
        except (ClientGoneError, OSError):
            pass
        finally:
            self._on_end()
