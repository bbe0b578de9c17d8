"""`POST /v1/responses`: OpenAI's Responses API, without any memory between requests."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from llamacart.errors import InputError, NotFoundError
from llamacart_server.answers.sse import CLIENT_CLOSED_REQUEST, EventStream, collect_pieces
from llamacart_server.bodies.answers import ActingCartridge
from llamacart_server.errors import RequestTimeoutError
from llamacart_server.openapi import failures
from llamacart_server.responses.as_chat import as_chat, renamed
from llamacart_server.responses.body import PlainFormat, ResponsesBody
from llamacart_server.responses.objects import ResponseObject, TextConfig
from llamacart_server.responses.writer import ResponseWriter
from llamacart_server.service import Service, usage_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llamacart.errors import LlamacartError
    from llamacart_server.answers.answer import Answer, Piece
    from llamacart_server.answers.sse import Emit
    from llamacart_server.responses.objects import StreamedEvent
    from llamacart_server.service import Prepared

_STREAM = {
    "description": "The response; where `stream` is true, the events of its making.",
    "content": {
        "text/event-stream": {
            "itemSchema": {
                "type": "object",
                "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
                "required": ["event", "data"],
            }
        }
    },
}


def router(service: Service) -> APIRouter:
    """The route, bound to what it works with."""
    routes = APIRouter(responses=failures(InputError, NotFoundError, RequestTimeoutError))

    @routes.post("/v1/responses", response_model=ResponseObject, responses={200: _STREAM})
    async def create_response(body: ResponsesBody, request: Request) -> Response:
        prepared = await run_in_threadpool(_prepare, service, body)
        answer, prepared = service.submit(prepared)
        begun, tokenizer = _begun(body, prepared), service.model.tokenizer
        writer = ResponseWriter(begun, tokenizer, has_tools=prepared.has_tools)
        if body.stream:
            return _stream(answer, writer)
        pieces = await collect_pieces(request.receive, answer)
        if pieces is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        for piece in pieces:
            writer.push(piece)
        writer.finish(usage_of(answer))
        return Response(
            writer.response.model_dump_json(by_alias=True), media_type="application/json"
        )

    return routes


def _prepare(service: Service, body: ResponsesBody) -> Prepared:
    try:
        return service.prepare_chat(as_chat(body))
    except InputError as error:
        raise renamed(error) from error


def _begun(body: ResponsesBody, prepared: Prepared) -> ResponseObject:
    """The response before there is anything of the answer."""
    text_format = body.text.format if body.text else None
    return ResponseObject(
        id=f"resp_{uuid.uuid4().hex}",
        created_at=int(time.time()),
        model=prepared.selection.model_id,
        cartridges=ActingCartridge.list_of(prepared.selection),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        metadata=body.metadata or {},
        parallel_tool_calls=bool(body.parallel_tool_calls),
        prompt_cache_key=body.prompt_cache_key,
        safety_identifier=body.safety_identifier,
        temperature=body.sampling.temperature,
        text=TextConfig(format=text_format or PlainFormat(type="text")),
        tool_choice=body.tool_choice or "auto",
        tools=body.tools or [],
        top_p=body.sampling.top_p,
        user=body.user,
    )


def _stream(answer: Answer, writer: ResponseWriter) -> Response:
    async def send(events: Iterable[StreamedEvent], emit: Emit) -> None:
        for event in events:
            await emit(event.json_text(), event.type)

    async def produce(emit: Emit) -> None:
        async def on_piece(piece: Piece) -> None:
            await send(writer.push(piece), emit)

        await send(writer.begin(), emit)
        await answer.run(on_piece)
        await send(writer.finish(usage_of(answer)), emit)

    async def on_error(error: LlamacartError, emit: Emit) -> None:
        await send(writer.fail(error), emit)

    return EventStream(produce, answer.cancel, on_error=on_error, done=None)
