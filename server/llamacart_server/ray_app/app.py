"""The Ray Serve application: `serve run llamacart_server.ray_app.app:build model=… replicas=3`."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from contextlib import ExitStack, aclosing
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import RayServeException
from starlette.responses import Response

from llamacart.errors import LlamacartError
from llamacart_server.library.source import cartridges_cache, open_source
from llamacart_server.logs import configure_logging
from llamacart_server.ray_app.arguments import FleetSettings, read_arguments
from llamacart_server.ray_app.ingress import Call, ingress
from llamacart_server.ray_app.replica import Replica
from llamacart_server.ray_app.shelf import Shelf
from llamacart_server.settings import ServeSettings
from llamacart_server.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

HASH_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
INGRESS_CPUS = 0.1


class Held:
    """What Ray keeps of a cartridge; Ray calls `__del__` to let go of it."""

    def __init__(self, shelf: Shelf, cartridge_id: str) -> None:
        self._shelf = shelf
        self._id = cartridge_id
        self._let_go = False

    def __del__(self) -> None:
        if not self._let_go:  # Ray calls it, then Python does
            self._let_go = True
            self._shelf.evict(self._id)


class LlamacartReplica:
    """The deployment that computes.

    Args:
        values: The fields of `ServeSettings`.
        fleet: What Ray was told.
    """

    def __init__(self, values: Mapping[str, Any], fleet: FleetSettings) -> None:
        from llamacart_server.commands.serve import build as build_server

        settings = ServeSettings(**values)
        configure_logging(settings.log_format)
        sys.setswitchinterval(0.0005)  # as `llamacart serve` does
        self._owned = ExitStack()
        server, model, _ = build_server(_without_what_is_the_ingress_s(settings), self._owned)
        server.state.lifecycle.start()
        self._engine = server.state.engine
        source = None
        if settings.cartridges is not None:
            most = settings.max_upload_bytes
            source = open_source(settings.cartridges, cartridges_cache(), most)
        shelf = Shelf(source, server.state.store)

        async def load(cartridge_id: str) -> Held:
            try:
                await in_thread(shelf.load, cartridge_id)
            except asyncio.CancelledError:  # it is loaded, and Ray will never know
                shelf.evict_at_release(cartridge_id)
                raise
            return Held(shelf, cartridge_id)

        get = serve.multiplexed(max_num_models_per_replica=fleet.max_cartridges)(load)
        name = serve.get_replica_context().replica_tag
        self._replica = Replica(server, model, shelf, get, str(name))
        if settings.refresh_seconds and source is not None:
            seconds = settings.refresh_seconds
            threading.Thread(target=_look, args=(shelf, seconds), daemon=True).start()

    async def names(self) -> Sequence[str]:
        """The base model's id, then its aliases."""
        return self._replica.names

    async def answer(self, call: Call) -> AsyncGenerator[Message]:
        """The messages of an answer."""
        async with aclosing(self._replica.answer(call)) as messages:
            async for message in messages:
                yield message

    def check_health(self) -> None:
        """Have Ray replace a replica whose engine has failed."""
        failure = self._engine.failure
        if failure is not None:
            raise RuntimeError(f"the engine has failed: {failure.message}")

    def __del__(self) -> None:
        self._owned.close()


class LlamacartIngress:
    """The deployment that clients reach.

    Args:
        replicas: Handle of the deployment that computes.
        values: The fields of `ServeSettings`.
        fleet: What Ray was told.
    """

    def __init__(self, replicas: Any, values: Mapping[str, Any], fleet: FleetSettings) -> None:
        settings = ServeSettings(**values)
        configure_logging(settings.log_format)
        self._app = ingress(_Handle(replicas, fleet), settings)

    async def __call__(self, request: Request) -> Response:
        """Answer a request, as Ray gives it."""
        return _Answer(self._app, request)


class _Answer(Response):
    """An answer that an application writes."""

    def __init__(self, app: ASGIApp, request: Request) -> None:
        super().__init__()
        self._app = app
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        await self._app(scope, self._request.receive, send)


class _Handle:
    """Where Ray's router sends calls."""

    lost: tuple[type[Exception], ...] = (RayActorError, RayServeException)

    def __init__(self, handle: Any, fleet: FleetSettings) -> None:
        self._handle = handle
        self._affinity = fleet.affinity

    async def names(self) -> Sequence[str]:
        names: Sequence[str] = await self._handle.names.remote()
        return names

    async def answer(self, call: Call) -> AsyncGenerator[Message]:
        stream = self._handle.options(stream=True, **self._route(call)).answer.remote(call)
        ended = False
        try:
            async for message in stream:
                yield message
            ended = True
        finally:
            if not ended:
                stream.cancel()

    def _route(self, call: Call) -> dict[str, str]:
        first = call.cartridges[0] if call.cartridges else ""
        if self._affinity == "cartridge":
            return {"multiplexed_model_id": first} if first else {}
        key = call.session or first
        return {"session_id": key} if self._affinity == "session" and key else {}


def build(args: Mapping[str, Any]) -> Any:
    """The application, for `serve run` and `serve.run`.

    Args:
        args: Fields of `FleetSettings`, and settings of `llamacart serve` by their names in a
            configuration file; `config` names such a file.

    Raises:
        InputError: A setting is not valid.
    """
    fleet, settings = read_arguments(args)
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    values["threads"] = settings.threads or max(1, int(fleet.num_cpus))
    options: dict[str, Any] = {}
    if fleet.affinity == "session":
        options["request_router_config"] = RequestRouterConfig(request_router_class=HASH_ROUTER)
    computing = serve.deployment(
        LlamacartReplica,
        ray_actor_options={"num_cpus": fleet.num_cpus},
        max_ongoing_requests=settings.parallel,
        autoscaling_config={
            "min_replicas": fleet.min_replicas,
            "max_replicas": fleet.max_replicas,
            "target_ongoing_requests": fleet.target_ongoing or settings.parallel,
        },
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=settings.shutdown_seconds,
        **options,
    )
    facing = serve.deployment(
        LlamacartIngress,
        ray_actor_options={"num_cpus": INGRESS_CPUS},
        max_ongoing_requests=settings.max_queued,
    )
    return facing.bind(computing.bind(values, fleet), values, fleet)


def _without_what_is_the_ingress_s(settings: ServeSettings) -> ServeSettings:
    """Settings of a replica, which loads cartridges when they are wanted and sees no keys."""
    gone = {"cartridges": None, "api_key": (), "api_key_file": None, "admin_key": None}
    return settings.model_copy(update={**gone, "train_jobs": False, "ui": False, "rate_limit": 0})


def _look(shelf: Shelf, seconds: float) -> None:
    """Look again and again, until the process ends."""
    while True:
        time.sleep(seconds)
        try:
            shelf.look()
        except LlamacartError as error:
            logger.warning("%s; what is known stays", error.message)
