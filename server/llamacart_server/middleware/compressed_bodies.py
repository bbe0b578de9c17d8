"""Bodies of requests as bytes, decoded where they are compressed."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from llamacart.errors import InputError
from llamacart_server.errors import BodyTooLargeError, UnsupportedMediaTypeError

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope

_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
PIECE_BYTES = 2**20
"""Most bytes that are decoded at once, so that a small body cannot fill the memory."""


class BodyReader:
    """The body of one request, decoded piece by piece and never longer than a limit.

    Args:
        scope: Of the request; its Content-Encoding may be gzip or deflate.
        receive: ASGI's.
        max_bytes: Limit, before and after decoding.
    """

    def __init__(self, scope: Scope, receive: Receive, max_bytes: int) -> None:
        given = Headers(scope=scope).get("content-encoding", "").strip().lower()
        self._encoding = "" if given == "identity" else given
        self._receive = receive
        self._max_bytes = max_bytes
        self._n_received = self._n_given = 0
        self._decoder = self._new_decoder() if self._encoding in _WINDOW_BITS else None
        self._encoded = b""  # received, and not decoded yet
        self._is_pending = False  # whether the decoder has more for what it has seen
        self._more_encoded = True
        self._has_ended = False

    async def receive(self) -> Message:
        """The next message, as ASGI's `receive` gives it.

        Raises:
            BodyTooLargeError: The body is longer than the limit.
            UnsupportedMediaTypeError: It is encoded in another way.
            InputError: It is not encoded as its header says.
        """
        if not self._encoding or self._has_ended:
            return await self._limited()
        if self._decoder is None:
            raise UnsupportedMediaTypeError(
                f"Content-Encoding is {self._encoding!r}; gzip, deflate or none is needed"
            )
        piece = b""
        while not piece and not self._has_ended:
            if not self._encoded and not self._is_pending:
                message = await self._limited()
                if message["type"] != "http.request":
                    return message
                self._encoded = message.get("body", b"")
                self._more_encoded = message.get("more_body", False)
            piece, self._decoder = self._decode(self._decoder)
            self._has_ended = not (self._more_encoded or self._encoded or self._is_pending)
        if self._has_ended and self._n_received and not self._decoder.eof:
            raise InputError(f"the body is not whole {self._encoding} data")
        return {"type": "http.request", "body": piece, "more_body": not self._has_ended}

    async def _limited(self) -> Message:
        message = await self._receive()
        self._n_received += len(message.get("body", b""))
        self._check(self._n_received)
        return message

    def _check(self, n_bytes: int) -> None:
        if n_bytes > self._max_bytes:
            raise BodyTooLargeError(f"the body is larger than {self._max_bytes} bytes")

    def _decode(self, decoder: zlib._Decompress) -> tuple[bytes, zlib._Decompress]:
        """The next piece, and the decoder that goes on after it."""
        if decoder.eof and self._encoded:  # gzip files may follow each other
            decoder = self._new_decoder()
        try:
            piece = decoder.decompress(self._encoded, PIECE_BYTES)
        except zlib.error as error:
            raise InputError(f"the body is not valid {self._encoding} data: {error}") from None
        self._encoded = decoder.unconsumed_tail or decoder.unused_data
        self._is_pending = len(piece) == PIECE_BYTES
        self._n_given += len(piece)
        self._check(self._n_given)
        return piece, decoder

    def _new_decoder(self) -> zlib._Decompress:
        return zlib.decompressobj(_WINDOW_BITS[self._encoding])
