"""Every error as an answer in OpenAI's shape, its status taken from the error's class."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from llamacart.errors import EngineError, InputError, LlamacartError, NotFoundError, OverloadedError
from llamacart_server.refusals import from_validation, unreadable

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 1


class AuthenticationError(LlamacartError):
    """The request carries no valid key."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"


class RateLimitError(LlamacartError):
    """The request's key has been used too often.

    Args:
        message: See `LlamacartError`.
        retry_after: Seconds until the next request is allowed.
    """

    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RequestTimeoutError(LlamacartError):
    """The answer took longer than `request_timeout` allows."""

    status = 504
    code = "request_timeout"
    type = "timeout_error"


class MethodNotAllowedError(InputError):
    """The path exists, but not for this method."""

    status = 405
    code = "method_not_allowed"


class BodyTooLargeError(InputError):
    """The body is longer than `max_body_bytes`."""

    status = 413
    code = "body_too_large"


class UnsupportedMediaTypeError(InputError):
    """The route takes no body of this Content-Type."""

    status = 415
    code = "unsupported_media_type"


class ConflictError(InputError):
    """Something that already exists is in the way."""

    status = 409
    code = "conflict"


class StorageError(LlamacartError):
    """A file cannot be written or deleted."""

    code = "storage_error"


_NOT_OURS = {OverloadedError.status, RequestTimeoutError.status}
"""Server errors by their status that say nothing of a defect."""

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

_ROUTING_ERRORS: dict[int, type[LlamacartError]] = {404: NotFoundError, 405: MethodNotAllowedError}


def error_json(error: LlamacartError) -> str:
    """The error as OpenAI's clients expect it."""
    body = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }
    # ASCII, because a message may repeat a lone surrogate of the request.
    return json.dumps({"error": body})


def error_response(error: LlamacartError) -> Response:
    """The error as a whole answer."""
    headers = {}
    if error.status == OverloadedError.status:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if error.status == AuthenticationError.status:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, RateLimitError):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, RequestTimeoutError):
        headers["X-Should-Retry"] = "false"  # read by OpenAI's clients: it would take as long again
    return Response(error_json(error), error.status, headers=headers, media_type="application/json")


def unexpected(error: Exception) -> LlamacartError:
    """What a client is told of an error that nobody foresaw; the log has the rest."""
    if isinstance(error, LlamacartError):
        return error
    return EngineError("internal error; the server's log says more")


def log_failure(error: Exception) -> None:
    """Log an error that is not the client's: with its traceback where nobody foresaw it."""
    if not isinstance(error, LlamacartError):
        logger.error("unexpected %s", type(error).__name__, exc_info=error)
    elif error.status >= EngineError.status and error.status not in _NOT_OURS:
        logger.error("%s: %s", type(error).__name__, error.message)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of `app` in OpenAI's shape."""

    @app.exception_handler(LlamacartError)
    async def on_expected(_request: Request, error: LlamacartError) -> Response:
        log_failure(error)
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        if isinstance(error.body, bytes):
            return error_response(_of_other_type(request))
        return error_response(from_validation(error.errors(), error.body))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        if isinstance(error.__cause__, LlamacartError):
            return error_response(error.__cause__)
        kind = _ROUTING_ERRORS.get(error.status_code)
        if kind is None:
            return error_response(unreadable(error.__cause__))
        response = error_response(kind(f"{error.detail}: {request.method} {request.url.path}"))
        response.headers.update(error.headers or {})
        if error.status_code == MethodNotAllowedError.status:
            response.headers["Allow"] = ", ".join(_methods_of(request))
        return response


def _of_other_type(request: Request) -> UnsupportedMediaTypeError:
    kind = request.headers.get("content-type", "")
    return UnsupportedMediaTypeError(
        f"the body's Content-Type is {kind!r}; Content-Type: application/json is needed"
    )


def _methods_of(request: Request) -> list[str]:
    """The methods that a request's path has; Starlette tells those of one route only."""
    routes = request.app.routes
    found = {
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes
        )
    }
    if "GET" in found:
        found.add("HEAD")  # `HeadMiddleware` makes one of the other
    return sorted(found)
