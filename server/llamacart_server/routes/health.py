"""Probes: `GET /health` says that the process can work, `GET /ready` that requests are welcome."""

from fastapi import APIRouter

from llamacart.errors import OverloadedError
from llamacart_server.bodies.answers import Status
from llamacart_server.openapi import failures
from llamacart_server.service import Service


def router(service: Service) -> APIRouter:
    """The routes, bound to what they work with."""
    routes = APIRouter(responses=failures(OverloadedError))

    def check_engine() -> None:
        failure = service.engine.failure
        if failure is not None:
            raise OverloadedError(f"the engine has failed: {failure.message}")

    @routes.get("/health")
    async def health() -> Status:
        check_engine()
        return Status()

    @routes.get("/ready")
    async def ready() -> Status:
        check_engine()
        if not service.lifecycle.ready:
            raise OverloadedError("the server is starting or stopping")
        return Status()

    return routes
