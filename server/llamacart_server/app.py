"""The application: routes around an engine that somebody else built and will stop."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from llamacart import __version__
from llamacart_server import cartridges, chat, completions, health, metrics, models, tokens
from llamacart_server.auth import ApiKeyMiddleware
from llamacart_server.errors import add_error_handlers
from llamacart_server.middleware import RequestMiddleware
from llamacart_server.service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llamacart_server.engine_api import EngineLike
    from llamacart_server.library import CartridgeLibrary
    from llamacart_server.served import ServedModel
    from llamacart_server.settings import ServeSettings


def create_app(
    engine: EngineLike, library: CartridgeLibrary, model: ServedModel, settings: ServeSettings
) -> FastAPI:
    """Build the application.

    Args:
        engine: Already started, with every cartridge of `library` loaded.
        library: The cartridges that requests can name.
        model: The base model.
        settings: Keys, limits and defaults.
    """
    service = Service(engine, library, model, settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.readiness.ready = True
        yield
        service.readiness.ready = False

    app = FastAPI(
        title="llamacart",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    for module in (chat, completions, models, cartridges, tokens, health, metrics):
        app.include_router(module.router(service))
    add_error_handlers(app)
    # The last one added is the outermost.
    if settings.api_key is not None:
        # The admin key opens everything: a request carries one key, and who adds a cartridge
        # wants to try it.
        keys = [key.get_secret_value() for key in (settings.api_key, settings.admin_key) if key]
        app.add_middleware(ApiKeyMiddleware, keys=keys)
    app.add_middleware(
        RequestMiddleware,
        max_body_bytes=settings.max_body_bytes,
        exceptions={("POST", cartridges.PATH): settings.max_upload_bytes},
    )
    return app
