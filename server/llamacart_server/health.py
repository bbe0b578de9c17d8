"""Probes: `GET /health` says that the process answers, `GET /ready` that requests are welcome."""

from fastapi import APIRouter

from llamacart.errors import OverloadedError
from llamacart_server.openapi import failures
from llamacart_server.responses import Status
from llamacart_server.service import Service


def router(service: Service) -> APIRouter:
    """The routes, bound to what they work with."""
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> Status:
        return Status()

    @routes.get("/ready", responses=failures(OverloadedError))
    async def ready() -> Status:
        if not service.lifecycle.ready:
            raise OverloadedError("the server is starting or stopping")
        return Status()

    return routes
