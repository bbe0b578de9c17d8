"""A record of each request, in the log and in the metrics."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from llamacart_server.answers.sse import CLIENT_CLOSED_REQUEST
from llamacart_server.logs import fields
from llamacart_server.middleware.lifecycle import ALWAYS_OPEN

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from llamacart_server.middleware.request_metrics import RequestMetrics

logger = logging.getLogger(__name__)


class AccessMiddleware:
    """Logs each request when its answer has ended, and counts refusals; probes are left out.

    Args:
        app: What is surrounded.
        metrics: Counts refusals.
        log: Whether to log.
    """

    def __init__(self, app: ASGIApp, metrics: RequestMetrics, *, log: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] in ALWAYS_OPEN:
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        status = CLIENT_CLOSED_REQUEST

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._metrics.answered(status)
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        finally:
            if self._log:
                self._write(scope, status, time.perf_counter() - begun)

    @staticmethod
    def _write(scope: Scope, status: int, seconds: float) -> None:
        client = scope.get("client")
        raw = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogatepass")
        path = raw.decode("ascii", "backslashreplace")
        logger.info(
            "%s %s",
            scope["method"],
            path,
            extra=fields(
                status=status, seconds=round(seconds, 4), client=client[0] if client else None
            ),
        )
