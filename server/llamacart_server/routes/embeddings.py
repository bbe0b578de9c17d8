"""`POST /v1/embeddings`: texts as vectors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from llamacart.errors import (
    ContextOverflowError,
    InputError,
    NotFoundError,
    OverloadedError,
)
from llamacart_server.answers.sse import CLIENT_CLOSED_REQUEST, ClientGoneError, while_connected
from llamacart_server.bodies.answers import ActingCartridge
from llamacart_server.bodies.embeddings import (
    Embedding,
    EmbeddingList,
    EmbeddingsBody,
    EmbeddingUsage,
)
from llamacart_server.errors import RequestTimeoutError
from llamacart_server.library.selection import select
from llamacart_server.openapi import failures

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from llamacart.values.steering import Steering
    from llamacart_server.engine.interface import EngineLike
    from llamacart_server.engine.jobs import Work
    from llamacart_server.service import Service

    Vector = NDArray[np.float32]


class EmbedderLike(Protocol):
    """Makes works that embed one text each; `llamacart.passes.embedding.Embedder` does."""

    @property
    def n_ctx(self) -> int:
        """Most tokens of a text."""
        ...

    def begin(self, tokens: Sequence[int], steering: Steering) -> Work[Vector]:
        """The work of embedding a text; nothing is computed yet. For any thread."""
        ...


class EmbeddingLane:
    """Has texts embedded one after the other, between the steps of the engine.

    Args:
        embedder: Makes the works.
        engine: Its thread does them, where they do not compete for processors.
        max_waiting: Texts that may wait.
    """

    def __init__(self, embedder: EmbedderLike, engine: EngineLike, max_waiting: int) -> None:
        self._embedder = embedder
        self._engine = engine
        self._max_waiting = max_waiting
        self._n_waiting = 0

    @property
    def n_ctx(self) -> int:
        """Most tokens of a text."""
        return self._embedder.n_ctx

    async def embed(self, texts: Sequence[Sequence[int]], steering: Steering) -> list[Vector]:
        """The vectors of some texts. Cancelled, it gives up the one under way.

        Raises:
            OverloadedError: Too many wait, or the engine has stopped.
        """
        if self._n_waiting + len(texts) > self._max_waiting:
            raise OverloadedError(f"{self._n_waiting} texts wait to be embedded already")
        self._n_waiting += len(texts)
        try:
            return [await self._one(tokens, steering) for tokens in texts]
        finally:
            self._n_waiting -= len(texts)

    async def _one(self, tokens: Sequence[int], steering: Steering) -> Vector:
        work = self._embedder.begin(tokens, steering)
        return await asyncio.wrap_future(self._engine.begin(work))


def router(service: Service, lane: EmbeddingLane) -> APIRouter:
    """The route, bound to what it works with."""
    routes = APIRouter(responses=failures(InputError, NotFoundError, RequestTimeoutError))

    @routes.post("/v1/embeddings", response_model=EmbeddingList)
    async def create_embeddings(body: EmbeddingsBody, request: Request) -> Response:
        selection = select(body.model, body.steering, service.model.names, service.library.snapshot)
        for placed in selection.acting:
            if placed.apply_to == "generated":
                raise InputError(
                    "apply_to has value 'generated'; an embedding generates nothing",
                    param="cartridges",
                )
        texts = await run_in_threadpool(_tokenize, body, service, lane.n_ctx)
        steering = tuple(placed.dose for placed in selection.acting)
        try:
            async with service.lifecycle.answering():
                vectors = await while_connected(request.receive, lane.embed(texts, steering))
        except ClientGoneError:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        if body.dimensions not in (None, len(vectors[0])):
            raise InputError(
                f"dimensions has value {body.dimensions}; only {len(vectors[0])} is supported",
                param="dimensions",
            )
        n_tokens = sum(map(len, texts))
        whole = EmbeddingList(
            data=[
                Embedding.of(i, vector, as_base64=body.encoding_format == "base64")
                for i, vector in enumerate(vectors)
            ],
            model=selection.model_id,
            usage=EmbeddingUsage(prompt_tokens=n_tokens, total_tokens=n_tokens),
            cartridges=ActingCartridge.list_of(selection),
        )
        return Response(whole.model_dump_json(), media_type="application/json")

    return routes


def _tokenize(body: EmbeddingsBody, service: Service, n_ctx: int) -> list[list[int]]:
    """Tokens of each input, checked; slow for long ones, so not for the loop."""
    limit = service.settings.max_queued
    if not 1 <= len(body.inputs) <= limit:
        raise InputError(
            f"input has {len(body.inputs)} items; 1 to {limit} are allowed", param="input"
        )
    texts = []
    for i, given in enumerate(body.inputs):
        if isinstance(given, str):
            tokens = service.model.tokenizer.tokenize(given)
        else:
            service.check_tokens(given, "input")
            tokens = given
        if not given or not tokens:
            raise InputError(f"input {i} is empty", param="input")
        if len(tokens) > n_ctx:
            raise ContextOverflowError(
                f"input {i} has {len(tokens)} tokens; at most {n_ctx} are embedded", param="input"
            )
        texts.append(tokens)
    return texts
