"""What surrounds every request: its id, the limit of its body, the last resort for errors."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

from llamacart.errors import InputError
from llamacart_server.errors import error_response, log_failure, unexpected
from llamacart_server.logs import REQUEST_ID
from llamacart_server.middleware.compressed_bodies import BodyReader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_CLIENT_ID = re.compile(r"[\x21-\x7e]{1,128}")


class HeadMiddleware:
    """Answers HEAD as GET, without the body; innermost, so that others see what was asked.

    Args:
        app: What is surrounded.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, send_head)


class RequestMiddleware:
    """Outermost layer of the app, but for CORS and the log of requests.

    Gives each answer the `X-Request-Id` that the client sent or a new one, decodes bodies and
    refuses those that are too large, and turns an error that nobody else handled into a 500.

    Args:
        app: What is surrounded.
        max_body_bytes: Largest body.
        exceptions: Largest body of some requests, by method and path.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_body_bytes: int,
        exceptions: Mapping[tuple[str, str], int] | None = None,
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._exceptions = exceptions or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Browsers and clients that join addresses end them with a slash.
        scope["path"] = scope["path"].rstrip("/") or "/"
        request_id = _request_id(Headers(scope=scope))
        max_bytes = self._exceptions.get((scope["method"], scope["path"]), self._max_body_bytes)
        REQUEST_ID.set(request_id)  # the task is this request's own
        started = False
        body = BodyReader(scope, receive, max_bytes)

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        async def receive_decoded() -> Message:
            try:
                return await body.receive()
            except InputError as error:
                # FastAPI passes on only this kind of error from where it reads bodies.
                raise HTTPException(error.status) from error

        try:
            await self._app(scope, receive_decoded, send_with_id)
        except Exception as error:
            log_failure(error)
            if started:
                raise
            await error_response(unexpected(error))(scope, receive, send_with_id)


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _CLIENT_ID.fullmatch(given) else uuid.uuid4().hex
