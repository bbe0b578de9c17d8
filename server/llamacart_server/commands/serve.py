"""`llamacart serve`."""

from __future__ import annotations

import logging
import os
import socket
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer
import uvicorn

from llamacart.errors import InputError
from llamacart_server.commands.draining import CLOSING_SECONDS, DrainingServer
from llamacart_server.logs import configure_logging
from llamacart_server.middleware.auth import read_keys
from llamacart_server.options import keyword, parameters, set_signature, to_toml
from llamacart_server.settings import (
    CONFIG_VARIABLE,
    ServeSettings,
    load_settings,
    unknown_variables,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

    from llamacart_server.library.library import CartridgeLibrary
    from llamacart_server.served import ServedModel

logger = logging.getLogger(__name__)

IDLE_SECONDS = 75
"""Before an idle connection is closed. Clients keep one for 5 s (httpx, so OpenAI's too), proxies
for 60: who closes it first must be the one that sends, or a request is lost on the way."""
FILE = "Configuration file"
FAILED = 70
"""Exit code of a server whose engine has failed (`EX_SOFTWARE`): whoever supervises it starts it
anew."""


def serve(*, config: Path | None = None, print_config: bool = False, **given: Any) -> None:
    """Serve a model and its cartridges over an OpenAI-compatible API.

    Settings that are not given come from the environment (LLAMACART_MODEL, LLAMACART_MAX_TOKENS,
    …), then from a TOML file (model = "…", max_tokens = …), then from the defaults.
    """
    settings = load_settings(config, **given)
    if print_config:
        typer.echo(to_toml(settings), nl=False)
    else:
        run(settings)


def run(settings: ServeSettings) -> None:
    """Serve until a signal to stop.

    Raises:
        LlamacartError: What is to be served cannot be.
        typer.Exit: A second signal has cut answers short, exit code 1; or the engine has failed,
            exit code 70.
    """
    configure_logging(settings.log_format)
    for warning in unknown_variables(os.environ):
        logger.warning(warning)
    if not read_keys(settings) and settings.host not in ("127.0.0.1", "::1", "localhost"):
        logger.warning("no API key is set: whoever reaches %s can use the server", settings.host)
    # The engine's thread must not wait long for Python when a step is done.
    sys.setswitchinterval(0.0005)
    with ExitStack() as owned:
        app, served, library = build(settings, owned)
        listener = owned.enter_context(_listen(settings.host, settings.port))
        config = uvicorn.Config(
            app,
            host=settings.host,
            ws="none",
            server_header=False,
            proxy_headers=bool(settings.trusted_proxy),
            forwarded_allow_ips=list(settings.trusted_proxy),
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=CLOSING_SECONDS,
            log_config=None,
            log_level="warning",
            access_log=False,
        )
        ids = [served.id, *(f"{served.id}:{cartridge}" for cartridge in library.ids)]
        url = f"http://{_address(settings.host, listener.getsockname()[1])}"
        greeting = f"listening on {url}/v1, models: {', '.join(ids)}"
        if settings.ui:
            greeting += f"\nplayground: {url}/"
        server = DrainingServer(config, app.state.lifecycle, settings.shutdown_seconds, greeting)
        app.state.engine.when_failed(server.fail)
        server.run([listener])
    if server.failed:
        logger.critical("the server ends because its engine has failed")
        raise typer.Exit(FAILED)
    if server.force_exit:
        raise typer.Exit(1)  # answers may have been cut


CONFIG_OPTION = typer.Option(
    "--config", envvar=CONFIG_VARIABLE, help="TOML file with settings.", rich_help_panel=FILE
)
PRINT_OPTION = typer.Option(
    "--print-config",
    help="Print the effective settings as TOML, without secrets, and stop.",
    rich_help_panel=FILE,
)
set_signature(
    serve,
    [
        *parameters(ServeSettings),
        keyword("config", Annotated[Path | None, CONFIG_OPTION], None),
        keyword("print_config", Annotated[bool, PRINT_OPTION], False),
    ],
)


def build(
    settings: ServeSettings, owned: ExitStack
) -> tuple[FastAPI, ServedModel, CartridgeLibrary]:
    """Load everything and build the app.

    Args:
        settings: What to load.
        owned: Takes over the model, the runner and the engine, and closes them.

    Raises:
        ModelError: The model cannot be loaded.
        InputError: The folder, a file in it or the chat template cannot be used.
    """
    # Here, so that `llamacart inspect` does not wait for what only a server needs.
    from llamacart.llama.model import Model
    from llamacart.passes.embedding import Embedder
    from llamacart.runner import LlamaRunner
    from llamacart_server.app import create_app
    from llamacart_server.engine.engine import Engine
    from llamacart_server.library.library import CartridgeLibrary
    from llamacart_server.library.refresh import Refresher
    from llamacart_server.library.source import cartridges_cache, open_source
    from llamacart_server.served import describe

    model = owned.enter_context(
        Model(
            settings.model,
            gpu_layers=settings.gpu_layers,
            flash_attention=settings.flash_attention,
            batch_invariant=settings.batch_invariant,
        )
    )
    library = CartridgeLibrary()
    source = None
    if settings.cartridges is not None:
        source = open_source(settings.cartridges, cartridges_cache(), settings.max_upload_bytes)
        library = CartridgeLibrary.from_source(
            source, model.fingerprint, force=settings.force, strict=settings.strict
        )
    for left in library.left_out:
        logger.warning("cartridges %s: %s is left out: %s", source, left.file, left.reason)
    runner = owned.enter_context(
        LlamaRunner(
            model,
            n_ctx=settings.ctx,
            n_batch=settings.batch,
            n_sequences=settings.parallel,
            n_cached=settings.prefix_cache,
            n_threads=settings.threads,
            dose_limit=settings.dose_limit,
            place=settings.steer_on,
            force=settings.force,
            token_seconds=settings.token_seconds or None,
        )
    )
    embedder = owned.enter_context(
        Embedder(
            model,
            n_ctx=settings.embedding_ctx,
            n_threads=settings.threads,
            dose_limit=settings.dose_limit,
            place=settings.steer_on,
            force=settings.force,
        )
    )
    engine = owned.enter_context(
        Engine(
            runner,
            max_queued=settings.max_queued,
            max_queued_tokens=settings.max_queued_tokens,
            host_cache_bytes=settings.cache_ram * 2**20,
        )
    )
    for cartridge in library:
        engine.load(cartridge)
    served = describe(model, runner.n_ctx, settings.chat_template)
    served = replace(served, weights_hash=model.fingerprint.weights_hash)
    logger.info("%s: chat template %s", served.id, served.template.source)
    app = create_app(engine, library, served, settings, embedder)
    if source is not None and settings.refresh_seconds:
        store = app.state.store
        owned.enter_context(Refresher(source, library, store, settings.refresh_seconds))
    return app, served, library


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # For its connections, which inherit it. Otherwise an answer's second packet waits for the
        # client to acknowledge the first, 40 ms; asyncio does not know such a socket to be TCP.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise InputError(
            f"cannot listen on {_address(host, port)}: {error.strerror or error}", param="port"
        ) from None
