"""`POST /v1/completions`: translates between OpenAI's completions and the engine."""

from collections.abc import Iterator, Sequence

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from llamacart.errors import InputError, NotFoundError
from llamacart.values.tokenizer import Tokenizer
from llamacart_server.answers.answer import Answer, Piece
from llamacart_server.answers.doses import TokenDose
from llamacart_server.answers.logprobs import CompletionLogprobs, Echo
from llamacart_server.bodies.answers import Completion, CompletionChoice, Telemetry, Usage
from llamacart_server.bodies.generation import CompletionBody
from llamacart_server.errors import RequestTimeoutError
from llamacart_server.openapi import event_stream, failures
from llamacart_server.routes.respond import respond
from llamacart_server.service import Prepared, Service, header


def router(service: Service) -> APIRouter:
    """The route, bound to what it works with."""
    routes = APIRouter(responses=failures(InputError, NotFoundError, RequestTimeoutError))

    @routes.post("/v1/completions", response_model=Completion, responses=event_stream(Completion))
    async def create_completion(body: CompletionBody, request: Request) -> Response:
        prepared = await run_in_threadpool(service.prepare_completion, body)
        answer, prepared = service.submit(prepared)
        writer = _CompletionWriter(prepared, answer, service.model.tokenizer)
        return await respond(request, body, answer, writer)

    return routes


class _CompletionWriter:
    """Writes the pieces of one answer; the first of each choice with the echo of its prompt."""

    def __init__(self, prepared: Prepared, answer: Answer, tokenizer: Tokenizer) -> None:
        self._head = header("cmpl", prepared.selection)
        self._prepared = prepared
        self._answer = answer
        self._tokenizer = tokenizer
        self._begun: set[int] = set()

    def chunks(self, piece: Piece) -> Iterator[Completion]:
        """A piece as a completion of its own."""
        yield self.completion([piece])

    def usage(self, usage: Usage) -> Completion:
        """The chunk that tells the usage."""
        return self.completion([], usage)

    def completion(self, pieces: Sequence[Piece], usage: Usage | None = None) -> Completion:
        choices = [self._choice(piece) for piece in pieces]
        return Completion(**vars(self._head), choices=choices, usage=usage)

    def _choice(self, piece: Piece) -> CompletionChoice:
        index = piece.index
        echo = self._prepared.echo(index)
        ends = piece.finish_reason is not None
        begins = echo is not None and index not in self._begun
        self._begun.add(index)
        return CompletionChoice(
            index=index,
            text=echo.text + piece.text if echo and begins else piece.text,
            logprobs=self._logprobs(piece, echo, begins=begins),
            finish_reason=piece.finish_reason,
            cartridges=self._prepared.acting(index) if ends else None,
            telemetry=Telemetry.of(piece.report, TokenDose.list_of(piece.doses, self._tokenizer)),
        )

    def _logprobs(
        self, piece: Piece, echo: Echo | None, *, begins: bool
    ) -> CompletionLogprobs | None:
        if self._prepared.requests[piece.index].logprobs is None:
            return None
        out = CompletionLogprobs()
        if echo and begins:
            out = echo.logprobs(self._answer.prompt_logprobs(piece.index), self._tokenizer)
        before = len(echo.text) if echo else 0
        for placed in piece.logprobs:
            out.add(placed.value.token, before + placed.start, placed.value, self._tokenizer)
        return out
