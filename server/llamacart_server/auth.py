"""Who may use the server."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from llamacart_server.errors import AuthenticationError, error_response

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = frozenset({"/health", "/ready"})


class ApiKeyMiddleware:
    """Asks for a key in `Authorization: Bearer <key>` or `X-Api-Key: <key>`.

    Probes (`/health`, `/ready`) and CORS preflights (OPTIONS) carry none and need none.

    Args:
        app: What is guarded.
        keys: Those that are let in; compared in constant time.
    """

    def __init__(self, app: ASGIApp, keys: Iterable[str]) -> None:
        self._app = app
        self._known = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        open_to_all = (
            scope["type"] != "http" or scope["method"] == "OPTIONS" or scope["path"] in OPEN_PATHS
        )
        if open_to_all or self._knows(scope["headers"]):
            await self._app(scope, receive, send)
            return
        error = AuthenticationError(
            "a valid API key is needed, as 'Authorization: Bearer <key>' or 'X-Api-Key: <key>'"
        )
        await error_response(error)(scope, receive, send)

    def _knows(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        given = list(presented_keys(headers))
        return any(hmac.compare_digest(key, known) for key in given for known in self._known)


def presented_keys(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[bytes]:
    """Every key that a request carries."""
    for name, value in headers:
        if name == b"x-api-key":
            yield value.strip()
        elif name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer":
                yield key.strip()
