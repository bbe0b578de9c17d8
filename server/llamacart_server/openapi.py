"""The OpenAPI document: the routes' own, with what surrounds every route and examples that run.

FastAPI writes down what a route declares. Errors that come from around the routes, the keys that
a server asks for and the name of its model are added here, so that a new route has them too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from llamacart.errors import EngineError, InputError, LlamacartError, OverloadedError
from llamacart_server.bodies.foreign import described
from llamacart_server.errors import (
    AuthenticationError,
    BodyTooLargeError,
    RateLimitError,
    UnsupportedMediaTypeError,
)
from llamacart_server.middleware.admin_auth import PermissionDeniedError
from llamacart_server.middleware.auth import OPEN_PATHS, UNCOUNTED_PATHS
from llamacart_server.middleware.lifecycle import ALWAYS_OPEN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fastapi import FastAPI

    Document = dict[str, Any]

_FASTAPI_ERROR = "422"
_FASTAPI_SCHEMAS = ("HTTPValidationError", "ValidationError")
_ERROR_CONTENT = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
_KEY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """Answer of every route that fails, and of a stream that ends early."""

    error: ErrorDetail


def failures(*kinds: type[LlamacartError]) -> dict[int | str, dict[str, Any]]:
    """Errors of a route, as FastAPI's `responses` wants them; those of one status are one."""
    out: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        summary = (kind.__doc__ or "").partition("\n")[0]
        if kind.status in out:
            summary = f"{out[kind.status]['description']} {summary}"
        out[kind.status] = {"model": ErrorBody, "description": summary}
    return out


def event_stream(chunk: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The other form of an answer: server-sent events, where `stream` is true."""
    text = f"A {chunk.__name__}, or an ErrorBody as the last but one; then `[DONE]`."
    data = {"type": "string", "contentMediaType": "application/json", "description": text}
    event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    return {200: {"content": {"text/event-stream": {"itemSchema": event}}}}


@dataclass(frozen=True)
class Description:
    """What is written into the document of a server beside what its routes declare.

    Attributes:
        model_id: Takes the place of the model in the examples.
        has_keys: Whether the server asks for API keys.
        has_admin_key: Whether it has an admin key.
    """

    model_id: str
    has_keys: bool
    has_admin_key: bool

    def document(self, app: FastAPI) -> Document:
        """The document of an app."""
        out = get_openapi(
            title=app.title, version=app.version, description=described(), routes=app.routes
        )
        schemas = out["components"]["schemas"]
        for name in _FASTAPI_SCHEMAS:
            schemas.pop(name, None)
        for path, operation in operations(out):
            self._complete(path, operation)
        if self.has_keys or self.has_admin_key:
            out["components"]["securitySchemes"] = _KEY_SCHEMES
        for schema in schemas.values():
            for example in schema.get("examples", ()):
                if "model" in example:
                    example["model"] = self.model_id
        return out

    def _complete(self, path: str, operation: Document) -> None:
        responses = operation["responses"]
        responses.pop(_FASTAPI_ERROR, None)
        for status, response in failures(*_from_around(path, operation)).items():
            responses.setdefault(str(status), {"description": response["description"]})
        operation["responses"] = responses = dict(sorted(responses.items()))
        for status, response in responses.items():
            if int(status) >= InputError.status:  # FastAPI takes it to be of the answer's type
                response["content"] = _ERROR_CONTENT
        administers = str(PermissionDeniedError.status) in responses
        if (self.has_keys and path not in OPEN_PATHS) or (self.has_admin_key and administers):
            operation["security"] = [{name: []} for name in _KEY_SCHEMES]


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and description of each operation."""
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _from_around(path: str, operation: Mapping[str, Any]) -> Iterator[type[LlamacartError]]:
    """Errors that no route raises itself."""
    yield EngineError
    if path not in OPEN_PATHS:
        yield AuthenticationError
        if path not in UNCOUNTED_PATHS:
            yield RateLimitError
    if path not in ALWAYS_OPEN:
        yield OverloadedError
    if "requestBody" in operation:
        yield BodyTooLargeError
        yield UnsupportedMediaTypeError
    if "requestBody" in operation or "parameters" in operation:
        yield InputError
