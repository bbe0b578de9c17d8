"""The application: routes around an engine that somebody else built and will stop."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import cache, partial
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from llamacart import __version__
from llamacart.errors import EngineError
from llamacart_server.errors import add_error_handlers
from llamacart_server.middleware.access import AccessMiddleware
from llamacart_server.middleware.auth import OPEN_PATHS, ApiKeyMiddleware, read_keys
from llamacart_server.middleware.keepalive import KeepAliveMiddleware
from llamacart_server.middleware.lifecycle import DrainMiddleware, Lifecycle
from llamacart_server.middleware.request_id import HeadMiddleware, RequestMiddleware
from llamacart_server.openapi import Description, failures
from llamacart_server.responses import route as responses_api
from llamacart_server.routes import (
    cartridges,
    chat,
    completions,
    embeddings,
    health,
    metrics,
    models,
    page,
    tokens,
    training,
)
from llamacart_server.service import Service
from llamacart_server.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llamacart_server.engine.interface import EngineLike
    from llamacart_server.library.library import CartridgeLibrary
    from llamacart_server.routes.embeddings import EmbedderLike
    from llamacart_server.served import ServedModel
    from llamacart_server.settings import ServeSettings


def create_app(
    engine: EngineLike,
    library: CartridgeLibrary,
    model: ServedModel,
    settings: ServeSettings,
    embedder: EmbedderLike | None = None,
) -> FastAPI:
    """Build the application.

    Args:
        engine: Already started, with every cartridge of `library` loaded.
        library: The cartridges that requests can name.
        model: The base model.
        settings: Keys, limits and defaults.
        embedder: For embeddings, used on the engine's thread; None leaves them out.

    Returns:
        The app; `app.state.lifecycle` lets its owner drain it, `app.state.engine` is `engine`,
        `app.state.store` changes what is on offer.

    Raises:
        InputError: There is something wrong with the keys.
    """
    keys = read_keys(settings)
    lifecycle = Lifecycle(settings.request_timeout)
    service = Service(engine, library, model, settings, lifecycle)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        lifecycle.start()
        yield
        lifecycle.close()
        if settings.train_jobs:
            await in_thread(service.training.close)

    app = FastAPI(
        title="llamacart",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses=failures(EngineError),
    )
    for module in (
        chat,
        completions,
        responses_api,
        models,
        cartridges,
        tokens,
        training,
        health,
        metrics,
    ):
        app.include_router(module.router(service))
    if embedder is not None:
        lane = embeddings.EmbeddingLane(embedder, engine, settings.max_queued)
        app.include_router(embeddings.router(service, lane))
    open_paths = set(OPEN_PATHS)
    if settings.ui:
        app.include_router(page.router())
        open_paths |= page.paths().keys()
    add_error_handlers(app)
    described = Description(model.id, bool(keys), settings.admin_key is not None)
    app.openapi = cache(partial(described.document, app))  # type: ignore[method-assign]
    app.state.lifecycle = lifecycle
    app.state.engine = engine
    app.state.store = service.store
    # The last one added is the outermost.
    app.add_middleware(HeadMiddleware)
    if settings.keep_alive:
        app.add_middleware(KeepAliveMiddleware, seconds=settings.keep_alive)
    if keys:
        # The admin key opens everything: a request carries one key, and who adds a cartridge
        # wants to try it.
        admin = [settings.admin_key.get_secret_value()] if settings.admin_key else []
        app.add_middleware(
            ApiKeyMiddleware,
            keys=[*keys, *admin],
            rate_limit=settings.rate_limit,
            open_paths=open_paths,
        )
    app.add_middleware(DrainMiddleware, lifecycle=lifecycle)
    app.add_middleware(
        RequestMiddleware,
        max_body_bytes=settings.max_body_bytes,
        exceptions={("POST", cartridges.PATH): settings.max_upload_bytes},
    )
    if settings.cors_origin:  # outermost, so that a page can also read errors
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origin,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    app.add_middleware(AccessMiddleware, metrics=service.metrics, log=settings.log_requests)
    return app
