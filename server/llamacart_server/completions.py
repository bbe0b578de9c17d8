"""`POST /v1/completions`: translates between OpenAI's completions and the engine."""

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from llamacart_server.answer import Answer, Piece
from llamacart_server.responses import Completion, CompletionChoice, Telemetry, Usage
from llamacart_server.schemas import CompletionBody
from llamacart_server.service import Header, Service, header, usage_of
from llamacart_server.sse import CLIENT_CLOSED_REQUEST, Emit, EventStream, collect_pieces


def router(service: Service) -> APIRouter:
    """The route, bound to what it works with."""
    routes = APIRouter()

    @routes.post("/v1/completions", response_model=Completion)
    async def create_completion(body: CompletionBody, request: Request) -> Response:
        prepared = await run_in_threadpool(service.prepare_completion, body)
        head = header("cmpl", prepared.selection)
        answer = service.submit(prepared)
        if body.stream:
            return _stream(answer, head, wants_usage=body.wants_usage)
        pieces = await collect_pieces(request.receive, answer)
        if pieces is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        whole = _completion(head, pieces, usage_of(answer))
        return Response(whole.model_dump_json(), media_type="application/json")

    return routes


def _stream(answer: Answer, head: Header, *, wants_usage: bool) -> Response:
    excluded = None if wants_usage else {"usage"}

    async def produce(emit: Emit) -> None:
        async def on_piece(piece: Piece) -> None:
            await emit(_completion(head, [piece]).model_dump_json(exclude=excluded))

        await answer.run(on_piece)
        if wants_usage:
            await emit(_completion(head, [], usage_of(answer)).model_dump_json())

    return EventStream(produce, answer.cancel)


def _completion(head: Header, pieces: list[Piece], usage: Usage | None = None) -> Completion:
    choices = [
        CompletionChoice(
            index=piece.index,
            text=piece.text,
            finish_reason=piece.finish_reason,
            telemetry=Telemetry.of(piece.report),
        )
        for piece in pieces
    ]
    return Completion(**vars(head), choices=choices, usage=usage)
