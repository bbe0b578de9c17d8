"""What completions and chats do alike: an answer written whole, or as events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fastapi.responses import Response

from llamacart_server.answers.sse import CLIENT_CLOSED_REQUEST, EventStream, collect_pieces
from llamacart_server.service import usage_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fastapi import Request
    from pydantic import BaseModel

    from llamacart_server.answers.answer import Answer, Piece
    from llamacart_server.answers.sse import Emit
    from llamacart_server.bodies.answers import Usage
    from llamacart_server.bodies.generation import GenerationBody


class Writer(Protocol):
    """Writes the pieces of one answer."""

    def completion(self, pieces: Sequence[Piece], usage: Usage) -> BaseModel:
        """The whole answer, from one piece for each choice."""
        ...

    def chunks(self, piece: Piece) -> Iterable[BaseModel]:
        """The chunks of a piece."""
        ...

    def usage(self, usage: Usage) -> BaseModel:
        """The chunk that tells the usage."""
        ...


async def respond(
    request: Request, body: GenerationBody, answer: Answer, writer: Writer
) -> Response:
    """The answer as the body wants it."""
    if body.stream:
        return _stream(answer, writer, wants_usage=body.wants_usage)
    pieces = await collect_pieces(request.receive, answer)
    if pieces is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    whole = writer.completion(pieces, usage_of(answer))
    return Response(whole.model_dump_json(), media_type="application/json")


def _stream(answer: Answer, writer: Writer, *, wants_usage: bool) -> Response:
    excluded = None if wants_usage else {"usage"}

    async def produce(emit: Emit) -> None:
        async def on_piece(piece: Piece) -> None:
            for chunk in writer.chunks(piece):
                await emit(chunk.model_dump_json(exclude=excluded))

        await answer.run(on_piece)
        if wants_usage:
            await emit(writer.usage(usage_of(answer)).model_dump_json())

    return EventStream(produce, answer.cancel)
