"""`POST /v1/chat/completions`: translates between OpenAI's chat and the engine."""

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from llamacart_server.answer import Answer, Piece
from llamacart_server.logprobs import ChatLogprobs
from llamacart_server.responses import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    Telemetry,
)
from llamacart_server.schemas import ChatBody
from llamacart_server.served import Tokenizer
from llamacart_server.service import Header, Service, header, usage_of
from llamacart_server.sse import CLIENT_CLOSED_REQUEST, Emit, EventStream, collect_pieces


def router(service: Service) -> APIRouter:
    """The route, bound to what it works with."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions", response_model=ChatCompletion)
    async def create_chat_completion(body: ChatBody, request: Request) -> Response:
        prepared = await run_in_threadpool(service.prepare_chat, body)
        head = header("chatcmpl", prepared.selection)
        answer = service.submit(prepared)
        tokenizer = service.model.tokenizer if body.logprobs else None
        if body.stream:
            return _stream(answer, head, tokenizer, wants_usage=body.wants_usage)
        pieces = await collect_pieces(request.receive, answer)
        if pieces is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        choices = [_choice(piece, tokenizer) for piece in pieces]
        whole = ChatCompletion(**vars(head), choices=choices, usage=usage_of(answer))
        return Response(whole.model_dump_json(), media_type="application/json")

    return routes


def _choice(piece: Piece, tokenizer: Tokenizer | None) -> ChatChoice:
    message = AssistantMessage(content=piece.text)
    return ChatChoice(
        index=piece.index,
        message=message,
        logprobs=ChatLogprobs.of(piece.logprobs, tokenizer) if tokenizer else None,
        finish_reason=piece.finish_reason,
        telemetry=Telemetry.of(piece.report),
    )


def _stream(
    answer: Answer, head: Header, tokenizer: Tokenizer | None, *, wants_usage: bool
) -> Response:
    excluded = None if wants_usage else {"usage"}

    async def produce(emit: Emit) -> None:
        async def send(choice: ChatChunkChoice) -> None:
            chunk = ChatChunk(**vars(head), choices=[choice], usage=None)
            await emit(chunk.model_dump_json(exclude=excluded))

        begun: set[int] = set()

        async def on_piece(piece: Piece) -> None:
            index = piece.index
            logprobs = None
            if tokenizer and piece.logprobs:
                logprobs = ChatLogprobs.of(piece.logprobs, tokenizer)
            # Not before the first text: clients measure their wait by the first chunk.
            if index not in begun:
                begun.add(index)
                await send(ChatChunkChoice(index=index, delta={"role": "assistant", "content": ""}))
            if piece.text:
                delta = ChatChunkChoice(
                    index=index, delta={"content": piece.text}, logprobs=logprobs
                )
                await send(delta)
            if piece.finish_reason is not None:
                await send(
                    ChatChunkChoice(
                        index=index,
                        delta={},
                        logprobs=None if piece.text else logprobs,
                        finish_reason=piece.finish_reason,
                        telemetry=Telemetry.of(piece.report),
                    )
                )

        await answer.run(on_piece)
        if wants_usage:
            chunk = ChatChunk(**vars(head), choices=[], usage=usage_of(answer))
            await emit(chunk.model_dump_json())

    return EventStream(produce, answer.cancel)
