"""`POST /v1/chat/completions`: translates between OpenAI's chat and the engine."""

import uuid
from collections.abc import Iterator, Sequence

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from llamacart.errors import InputError, NotFoundError
from llamacart.values.tokenizer import Tokenizer
from llamacart_server.answers.answer import Piece
from llamacart_server.answers.doses import TokenDose
from llamacart_server.answers.logprobs import ChatLogprobs
from llamacart_server.bodies.answers import (
    AssistantMessage,
    CalledFunction,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatFinishReason,
    Delta,
    Telemetry,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from llamacart_server.bodies.generation import ChatBody
from llamacart_server.constraints.tools import CallPart, ToolReader
from llamacart_server.errors import RequestTimeoutError
from llamacart_server.openapi import event_stream, failures
from llamacart_server.routes.respond import respond
from llamacart_server.service import Prepared, Service, header


def router(service: Service) -> APIRouter:
    """The route, bound to what it works with."""
    routes = APIRouter(responses=failures(InputError, NotFoundError, RequestTimeoutError))

    @routes.post(
        "/v1/chat/completions", response_model=ChatCompletion, responses=event_stream(ChatChunk)
    )
    async def create_chat_completion(body: ChatBody, request: Request) -> Response:
        prepared = await run_in_threadpool(service.prepare_chat, body)
        answer, prepared = service.submit(prepared)
        writer = _ChatWriter(prepared, service.model.tokenizer)
        return await respond(request, body, answer, writer)

    return routes


class _ChatWriter:
    """Writes the pieces of one answer, whole or as chunks."""

    def __init__(self, prepared: Prepared, tokenizer: Tokenizer) -> None:
        self._head = vars(header("chatcmpl", prepared.selection))
        self._tokenizer = tokenizer
        self._prepared = prepared
        self._has_logprobs = prepared.requests[0].logprobs is not None
        n = len(prepared.requests)
        self._readers = [ToolReader() if prepared.has_tools else None for _ in range(n)]
        self._begun: set[int] = set()

    # --- whole ------------------------------------------------------------------------------

    def completion(self, pieces: Sequence[Piece], usage: Usage) -> ChatCompletion:
        """The answer, from one piece for each choice."""
        choices = [self._choice(piece) for piece in pieces]
        return ChatCompletion(**self._head, choices=choices, usage=usage)

    def _choice(self, piece: Piece) -> ChatChoice:
        content, parts = self._read(piece)
        calls: list[ToolCall] = []
        for part in parts:
            if part.name is not None:
                calls.append(ToolCall(id=_call_id(), function=CalledFunction(name=part.name)))
            calls[-1].function.arguments += part.arguments
        message = AssistantMessage(
            content=content if content.strip() or not calls else None, tool_calls=calls or None
        )
        return ChatChoice(
            index=piece.index,
            message=message,
            logprobs=self._logprobs(piece),
            finish_reason=self._reason(piece) or "stop",
            cartridges=self._prepared.acting(piece.index),
            telemetry=Telemetry.of(piece.report, self._doses(piece)),
        )

    # --- streamed ---------------------------------------------------------------------------

    def chunks(self, piece: Piece) -> Iterator[ChatChunk]:
        """The chunks of a piece."""
        # Not before the first text: clients measure their wait by the first chunk.
        if piece.index not in self._begun:
            self._begun.add(piece.index)
            yield self._chunk(ChatChunkChoice(index=piece.index, delta=_opening()))
        content, parts = self._read(piece)
        deltas: list[Delta] = [{"content": content}] if content else []
        for part in parts:
            deltas.append({"tool_calls": [_call_delta(part)]})
        logprobs = self._logprobs(piece)
        if logprobs and not logprobs.content:
            logprobs = None
        doses = self._doses(piece)
        for delta in deltas:
            choice = ChatChunkChoice(
                index=piece.index,
                delta=delta,
                logprobs=logprobs,
                telemetry=Telemetry.of(None, doses),
            )
            yield self._chunk(choice)
            logprobs, doses = None, []
        if piece.finish_reason is not None or logprobs is not None or doses:
            last = ChatChunkChoice(
                index=piece.index,
                delta={},
                logprobs=logprobs,
                finish_reason=self._reason(piece),
                cartridges=self._prepared.acting(piece.index),
                telemetry=Telemetry.of(piece.report, doses),
            )
            yield self._chunk(last)

    def usage(self, usage: Usage) -> ChatChunk:
        """The chunk that tells the usage."""
        return ChatChunk(**self._head, choices=[], usage=usage)

    def _chunk(self, choice: ChatChunkChoice) -> ChatChunk:
        return ChatChunk(**self._head, choices=[choice], usage=None)

    # --- both -------------------------------------------------------------------------------

    def _read(self, piece: Piece) -> tuple[str, list[CallPart]]:
        reader = self._readers[piece.index]
        if reader is None:
            return piece.text, []
        content, parts = reader.push(piece.text)
        if piece.finish_reason is not None:
            content += reader.finish()
        return content, parts

    def _reason(self, piece: Piece) -> ChatFinishReason | None:
        reader = self._readers[piece.index]
        called = reader is not None and reader.n_calls > 0 and not reader.is_inside
        return "tool_calls" if called and piece.finish_reason == "stop" else piece.finish_reason

    def _logprobs(self, piece: Piece) -> ChatLogprobs | None:
        if not self._has_logprobs:
            return None
        return ChatLogprobs.of(piece.logprobs, self._tokenizer)

    def _doses(self, piece: Piece) -> list[TokenDose]:
        return TokenDose.list_of(piece.doses, self._tokenizer)


def _opening() -> Delta:
    return {"role": "assistant", "content": ""}


def _call_delta(part: CallPart) -> ToolCallDelta:
    if part.name is None:
        return ToolCallDelta(index=part.index, function={"arguments": part.arguments})
    return ToolCallDelta(
        index=part.index,
        id=_call_id(),
        type="function",
        function={"name": part.name, "arguments": part.arguments},
    )


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
