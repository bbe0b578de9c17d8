"""`GET /metrics`: what the engine does, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from llamacart_server.scheduler_metrics import SchedulerCollector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from llamacart_server.engine.interface import EngineLike
    from llamacart_server.service import Service

_GAUGES = {
    "requests_running": ("running", "Requests that are being computed."),
    "requests_queued": ("queued", "Requests that wait."),
    "queued_prompt_tokens": ("queued_tokens", "Prompt tokens of requests that wait."),
    "kv_cells_used": ("kv_used", "KV cells in use, shared ones counted once."),
    "kv_cells_cached": ("kv_cached", "KV cells that only the prefix cache holds."),
    "prefix_cache_entries": ("cached_entries", "Idle entries of the prefix cache."),
    "device_cartridge_bytes": ("device_bytes", "Memory on devices that cartridges take."),
    "host_cache_bytes": ("host_bytes", "Host memory taken by entries that left their slots."),
}
_COUNTERS = {
    "steps": ("steps", "Batches computed."),
    "preemptions": ("preempted", "Times that a running request had to give way."),
    "prompt_tokens": ("prompt_tokens", "Prompt tokens, cached ones included."),
    "prompt_tokens_cached": ("cached_tokens", "Prompt tokens that the prefix cache had."),
    "generated_tokens": ("generated_tokens", "Tokens generated."),
    "dose_capped_rows": ("capped_rows", "Rows where the dose limit made a delta smaller."),
    "kv_cache_resets": ("cache_resets", "Times that the KV cache was cleared after a failure."),
    "requests_overrun": ("overruns", "Requests ended because choosing a token took too long."),
}
_OUTCOMES = ("finished", "cancelled", "failed")


class EngineCollector:
    """Reads the engine's figures when they are asked for.

    Args:
        engine: Whose figures.
        n_cells: KV cells it has.
    """

    def __init__(self, engine: EngineLike, n_cells: int) -> None:
        self._engine = engine
        self._n_cells = n_cells

    def describe(self) -> list[Metric]:
        """Nothing: names are known without asking the engine."""
        return []

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        stats = self._engine.stats()
        yield GaugeMetricFamily("llamacart_kv_cells", "KV cells in total.", value=self._n_cells)
        for name, (field, text) in _GAUGES.items():
            yield GaugeMetricFamily(f"llamacart_{name}", text, value=getattr(stats, field))
        for name, (field, text) in _COUNTERS.items():
            yield CounterMetricFamily(f"llamacart_{name}", text, value=getattr(stats, field))
        ended = CounterMetricFamily(
            "llamacart_requests", "Requests that have ended.", labels=["outcome"]
        )
        for outcome in _OUTCOMES:
            ended.add_metric([outcome], getattr(stats, outcome))
        yield ended


def router(service: Service) -> APIRouter:
    """The route, bound to what it works with."""
    routes = APIRouter()
    registry = service.registry
    registry.register(EngineCollector(service.engine, service.model.n_ctx))
    vllm = service.settings.metrics_names == "vllm"
    registry.register(SchedulerCollector(service.engine, service.library, service.model, vllm=vllm))

    @routes.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return routes
