"""What stands before the replicas: checks keys and sizes, and says where a request belongs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from llamacart.errors import LlamacartError, NotFoundError, OverloadedError
from llamacart_server.errors import error_json, error_response
from llamacart_server.logs import REQUEST_ID
from llamacart_server.middleware.auth import ApiKeyMiddleware, read_keys
from llamacart_server.middleware.request_id import RequestMiddleware
from llamacart_server.ray_app.bridge import BODY, plain_scope
from llamacart_server.ray_app.named import MODELS, named

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from llamacart_server.settings import ServeSettings

logger = logging.getLogger(__name__)

SESSION_HEADER = "x-session-id"
PATHS = frozenset(
    {
        "/health",
        "/ready",
        MODELS,
        "/tokenize",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/tokenize",
    }
)
"""What means the same whichever replica answers."""
TRIES = 2


@dataclass(frozen=True)
class Call:
    """A request on its way to a replica.

    Attributes:
        scope: As `plain_scope` makes it.
        body: All of it.
        cartridges: Ids of what it names.
        session: The conversation that it belongs to, as its client says; empty where it does not.
    """

    scope: dict[str, Any]
    body: bytes
    cartridges: tuple[str, ...]
    session: str


class Replicas(Protocol):
    """Where calls go."""

    lost: tuple[type[Exception], ...]
    """What `answer` raises of a replica that is gone or takes nothing more."""

    async def names(self) -> Sequence[str]:
        """The base model's id, then its aliases."""
        ...

    def answer(self, call: Call) -> AsyncGenerator[Message]:
        """The messages of an answer; closing it gives the request up."""
        ...


def ingress(replicas: Replicas, settings: ServeSettings) -> ASGIApp:
    """The application that stands before the replicas.

    Args:
        replicas: Where requests go.
        settings: Keys and limits.

    Raises:
        InputError: There is something wrong with the keys.
    """
    app: ASGIApp = _Forward(replicas)
    keys = read_keys(settings)
    if keys:
        app = ApiKeyMiddleware(app, keys=keys, rate_limit=settings.rate_limit)
    return RequestMiddleware(app, max_body_bytes=settings.max_body_bytes)


class _Forward:
    """Passes requests on.

    A request of which its client has seen nothing yet is tried once more where its replica was
    lost. A stream that has begun ends with an error event.
    """

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._names: Sequence[str] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            call = await self._read(scope, receive)
        except LlamacartError as error:
            await error_response(error)(scope, receive, send)
            return
        for attempt in range(TRIES):
            begun: Message | None = None
            answer = self._replicas.answer(call)
            try:
                async for message in answer:
                    begun = begun or message
                    await send(message)
            except self._replicas.lost as error:
                logger.warning("a replica was lost: %s", type(error).__name__)
                if begun is None and attempt + 1 < TRIES:
                    continue
                gone = OverloadedError("the replica that computed the answer is gone")
                if begun is None:
                    await error_response(gone)(scope, receive, send)
                else:
                    await _end(begun, gone, send, error)
            finally:
                await answer.aclose()
            return

    async def _read(self, scope: Scope, receive: Receive) -> Call:
        path = scope["path"]
        if path not in PATHS and not path.startswith(f"{MODELS}/"):
            raise NotFoundError(f"Not Found: {scope['method']} {path}")
        if not self._names:
            self._names = await self._replicas.names()
        body = await _body(receive)
        session = Headers(scope=scope).get(SESSION_HEADER, "")
        plain = plain_scope(scope, body, REQUEST_ID.get() or "")
        return Call(plain, body, named(path, body, self._names), session)


async def _body(receive: Receive) -> bytes:
    pieces, more = [], True
    while more:
        try:
            message = await receive()
        except HTTPException as error:  # see `RequestMiddleware`
            if isinstance(error.__cause__, LlamacartError):
                raise error.__cause__ from None
            raise
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(pieces)


async def _end(begun: Message, gone: LlamacartError, send: Send, error: Exception) -> None:
    """End an answer of which the client has a part; only a stream can say why."""
    kinds = {v for k, v in begun.get("headers", ()) if k.lower() == b"content-type"}
    if not any(kind.startswith(b"text/event-stream") for kind in kinds):
        raise error
    event = f"data: {error_json(gone)}\n\n".encode()
    await send({"type": BODY, "body": event, "more_body": False})
