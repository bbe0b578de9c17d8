"""`llamacart serve`."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer
import uvicorn

from llamacart.errors import InputError
from llamacart_server.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI

    from llamacart_server.library import CartridgeLibrary
    from llamacart_server.served import ServedModel
    from llamacart_server.settings import ServeSettings

logger = logging.getLogger(__name__)


def serve(
    model: Annotated[
        str | None, typer.Option(help="GGUF path, 'demo' or hf:<owner>/<repo>/<file>.")
    ] = None,
    cartridges: Annotated[
        Path | None, typer.Option(help="Folder of cartridges, all loaded at start-up.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Key that clients must send; better in LLAMACART_API_KEY.")
    ] = None,
    admin_key: Annotated[
        str | None,
        typer.Option(help="Key that changing cartridges takes; better in LLAMACART_ADMIN_KEY."),
    ] = None,
    ctx: Annotated[int | None, typer.Option(help="KV cells, shared by all requests.")] = None,
    parallel: Annotated[int | None, typer.Option(help="Requests that decode together.")] = None,
    batch: Annotated[int | None, typer.Option(help="Most rows in one step.")] = None,
    prefix_cache: Annotated[
        int | None, typer.Option(help="Idle conversations kept for reuse; 0 turns it off.")
    ] = None,
    cache_ram: Annotated[
        int | None, typer.Option(help="MiB of host memory for those that had to leave.")
    ] = None,
    dose_limit: Annotated[
        float | None, typer.Option(help="Most relative size of a steering delta; default: any.")
    ] = None,
    gpu_layers: Annotated[int | None, typer.Option(help="Layers to offload; -1 means all.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; default: all processors.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens one request may generate.")
    ] = None,
    batch_invariant: Annotated[
        bool | None,
        typer.Option(help="Rows never depend on their neighbours (CPU; slower prompts)."),
    ] = None,
    force: Annotated[
        bool | None,
        typer.Option("--force/--no-force", help="Accept cartridges made for other weights."),
    ] = None,
) -> None:
    """Serve a model and its cartridges over an OpenAI-compatible API.

    What is not given comes from the environment (LLAMACART_MODEL, LLAMACART_PORT, …), else
    from the defaults: model demo, 127.0.0.1:8080, 8192 KV cells, 16 requests in parallel.
    """
    settings = load_settings(**locals())
    logging.basicConfig(format="%(levelname)s:     %(message)s")
    logging.getLogger("llamacart_server").setLevel(logging.INFO)
    if settings.api_key is None and settings.host not in ("127.0.0.1", "::1", "localhost"):
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
            timeout_graceful_shutdown=settings.shutdown_seconds,
            log_level="warning",
        )
        ids = [served.id, *(f"{served.id}:{cartridge}" for cartridge in library.ids)]
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{shown}:{listener.getsockname()[1]}"
        _Server(config, f"listening on {url}/v1, models: {', '.join(ids)}").run([listener])


def build(
    settings: ServeSettings, owned: ExitStack
) -> tuple[FastAPI, ServedModel, CartridgeLibrary]:
    """Load everything and build the app.

    Args:
        settings: What to load.
        owned: Takes over the model, the runner and the engine, and closes them.

    Raises:
        ModelError: The model cannot be loaded.
        CartridgeError: A cartridge file cannot be used.
    """
    # Here, so that `llamacart inspect` does not wait for what only a server needs.
    from llamacart.model import Model
    from llamacart.runner import LlamaRunner
    from llamacart_server.app import create_app
    from llamacart_server.engine import Engine
    from llamacart_server.library import CartridgeLibrary
    from llamacart_server.served import describe

    model = owned.enter_context(
        Model(
            settings.model, gpu_layers=settings.gpu_layers, batch_invariant=settings.batch_invariant
        )
    )
    library = CartridgeLibrary()
    if settings.cartridges is not None:
        library = CartridgeLibrary.from_folder(
            settings.cartridges, model.fingerprint, force=settings.force
        )
    runner = owned.enter_context(
        LlamaRunner(
            model,
            n_ctx=settings.ctx,
            n_batch=settings.batch,
            n_sequences=settings.parallel,
            n_cached=settings.prefix_cache,
            n_threads=settings.threads,
            dose_limit=settings.dose_limit,
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
    served = describe(model, runner.n_ctx)
    logger.info("%s: chat template %s", served.id, served.template.source)
    return create_app(engine, library, served, settings), served, library


class _Server(uvicorn.Server):
    """A server that says when it listens, and returns after a signal to stop.

    uvicorn's own raises the signal again once it has drained, which would end the process
    before the engine is stopped.
    """

    def __init__(self, config: uvicorn.Config, greeting: str) -> None:
        super().__init__(config)
        self._greeting = greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        typer.echo(self._greeting)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        previous = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port}: {error.strerror or error}", param="port"
        ) from None
