"""Who may use the server, and how often."""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from typing import TYPE_CHECKING

from llamacart.disk.text import read_text
from llamacart.errors import InputError, LlamacartError
from llamacart_server.errors import AuthenticationError, RateLimitError, error_response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from llamacart_server.settings import ServeSettings

OPEN_PATHS = frozenset({"/health", "/ready"})
UNCOUNTED_PATHS = frozenset({"/metrics"})


def read_keys(settings: ServeSettings) -> tuple[str, ...]:
    """All keys, from the settings and from the file that they name.

    Raises:
        InputError: The file cannot be read or holds no key, one of them is the admin key, or
            there is a rate limit and no key to count by, or training and no admin key.
    """
    keys = [key.get_secret_value() for key in settings.api_key]
    path = settings.api_key_file
    if path is not None:
        try:
            lines = [line.strip() for line in read_text(path).splitlines()]
        except LlamacartError as error:
            raise InputError(
                f"setting api_key_file: {error.message}", param="api_key_file"
            ) from None
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise InputError(
                f"setting api_key_file: {str(path)!r} holds no key", param="api_key_file"
            )
        keys += found
    if settings.admin_key is not None and settings.admin_key.get_secret_value() in keys:
        raise InputError("setting admin_key: must differ from every api_key", param="admin_key")
    if settings.train_jobs and settings.admin_key is None:
        raise InputError(
            "setting train_jobs is on, but there is no admin_key, and nobody else may train",
            param="train_jobs",
        )
    if settings.rate_limit and not keys:
        raise InputError(
            f"setting rate_limit has value {settings.rate_limit}, but there is no api_key to "
            "count by",
            param="rate_limit",
        )
    return tuple(dict.fromkeys(keys))


class KeyRing:
    """Recognises keys in a time that does not depend on them.

    Args:
        keys: The valid ones.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def find(self, given: bytes) -> int | None:
        """Which key it is, or None. All are compared, as digests, so of equal length."""
        digest = _digest(given)
        found = None
        for i, known in enumerate(self._digests):
            if hmac.compare_digest(digest, known):
                found = i
        return found


class RateLimit:
    """A token bucket for each key: it holds a minute's requests and fills up evenly.

    Args:
        per_minute: Requests a minute, at least 1.
        clock: Seconds that only grow.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = float(per_minute)
        self._per_second = per_minute / 60
        self._clock = clock
        self._buckets: dict[int, tuple[float, float]] = {}

    def take(self, key: int) -> float:
        """Count a request; returns 0, or the seconds until the next is allowed."""
        now = self._clock()
        level, since = self._buckets.get(key, (self._capacity, now))
        level = min(self._capacity, level + (now - since) * self._per_second)
        if level < 1:
            self._buckets[key] = (level, now)
            return (1 - level) / self._per_second
        self._buckets[key] = (level - 1, now)
        return 0.0


class ApiKeyMiddleware:
    """Asks for a key in `Authorization: Bearer <key>` or `X-Api-Key: <key>`.

    CORS preflights (OPTIONS) and what is open to all carry none and need none. Each other
    request counts against its key's rate limit, except those for `/metrics`.

    Args:
        app: What is guarded.
        keys: The keys; compared in constant time.
        rate_limit: Requests a minute for each key; 0 means no limit.
        open_paths: What is open to all: probes, and the page if there is one.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Iterable[str],
        rate_limit: int = 0,
        open_paths: Iterable[str] = OPEN_PATHS,
    ) -> None:
        self._app = app
        self._open_paths = frozenset(open_paths)
        self._keys = KeyRing(keys)
        self._rate_limit = rate_limit
        self._limit = RateLimit(rate_limit) if rate_limit else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        open_to_all = (
            scope["type"] != "http"
            or scope["method"] == "OPTIONS"
            or scope["path"] in self._open_paths
        )
        refusal = None if open_to_all else self._check(scope)
        await (self._app if refusal is None else error_response(refusal))(scope, receive, send)

    def _check(self, scope: Scope) -> AuthenticationError | RateLimitError | None:
        found = [self._keys.find(key) for key in presented_keys(scope["headers"])]
        key = next((key for key in found if key is not None), None)
        if key is None:
            return AuthenticationError(
                "a valid API key is needed, as 'Authorization: Bearer <key>' or 'X-Api-Key: <key>'"
            )
        if self._limit is None or scope["path"] in UNCOUNTED_PATHS:
            return None
        wait = math.ceil(self._limit.take(key))
        if not wait:
            return None
        return RateLimitError(
            f"this key may send {self._rate_limit} requests a minute; try again in {wait} s",
            retry_after=wait,
        )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def presented_keys(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[bytes]:
    """Every key that a request carries."""
    for name, value in headers:
        if name == b"x-api-key":
            yield value.strip()
        elif name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer":
                yield key.strip()
