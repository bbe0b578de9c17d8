"""A running server as the commands for people see it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from llamacart.errors import InputError, LlamacartError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_URL = "http://127.0.0.1:8080"


class RemoteError(LlamacartError):
    """A server cannot be reached, or answers with an error."""

    code = "remote_error"


class Remote:
    """An OpenAI-compatible server with llamacart's extensions.

    Args:
        url: Its address, with or without `/v1`.
        api_key: Sent with every request; of several, joined by commas, the first.
        timeout: Seconds without a byte after which it is given up.

    Raises:
        InputError: `url` is not one of HTTP.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout: float = 600) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{url!r} is not a URL that begins with http:// or https://")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._key = (api_key or "").split(",")[0].strip()
        self._timeout = timeout

    def models(self) -> list[dict[str, Any]]:
        """The cards of `GET /v1/models`."""
        with self._open("/v1/models") as response:
            cards: list[dict[str, Any]] = json.load(response)["data"]
            return cards

    def lora_adapters(self) -> list[dict[str, Any]]:
        """The LoRA adapters that a llama-server has loaded; none where it is another server."""
        try:
            with self._open("/lora-adapters") as response:
                found = json.load(response)
        except (RemoteError, ValueError):
            return []
        return [own for own in found if isinstance(own, dict)] if isinstance(found, list) else []

    def completion(self, body: dict[str, Any]) -> str:
        """The text of an answer of `POST /v1/completions`.

        Raises:
            RemoteError: The server refuses, or what it answers is no completion.
        """
        with self._open("/v1/completions", body) as response:
            try:
                return str(json.load(response)["choices"][0]["text"])
            except (ValueError, LookupError, TypeError) as error:
                raise RemoteError(f"{self.url} answers with no completion: {error!r}") from None

    def chat(self, body: dict[str, Any]) -> Iterator[str]:
        """The text of a streamed chat answer, piece by piece.

        Raises:
            RemoteError: The server refuses or breaks off; its own message is told.
        """
        try:
            with self._open("/v1/chat/completions", {**body, "stream": True}) as response:
                yield from _texts(response)
        except (OSError, HTTPException) as error:
            raise RemoteError(f"{self.url} ended the answer early: {error}") from None

    def _open(self, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)  # noqa: S310 - checked
        try:
            return urllib.request.urlopen(request, timeout=self._timeout)  # noqa: S310
        except urllib.error.HTTPError as error:
            raise RemoteError(f"{self.url}: {_message(error)}") from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise RemoteError(f"{self.url} cannot be reached: {reason}") from None


def _texts(lines: Iterator[bytes]) -> Iterator[str]:
    for line in lines:
        if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
            continue
        event = json.loads(line.removeprefix(b"data: "))
        if "error" in event:
            raise RemoteError(event["error"]["message"])
        for choice in event["choices"]:
            yield choice["delta"].get("content") or ""


def _message(error: urllib.error.HTTPError) -> str:
    with error:
        try:
            return str(json.load(error)["error"]["message"])
        except (OSError, ValueError, KeyError, TypeError):
            return f"HTTP status {error.code}"
