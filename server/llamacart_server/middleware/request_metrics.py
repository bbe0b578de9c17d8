"""What clients notice of the server, for Prometheus: refusals, waiting times, cartridges."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from prometheus_client import Counter, Histogram

from llamacart_server.answers.sse import CLIENT_CLOSED_REQUEST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from prometheus_client import CollectorRegistry

    from llamacart_server.engine.interface import GenerationLike, Submitter
    from llamacart_server.engine.request import GenerationReport, GenerationRequest, TokenEvent

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 10)
_LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
# None below 0: with one, prometheus_client leaves out the sum.
_DOSE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ALPHA = (0, 0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.5, 2, 5, 10)

REFUSALS = {
    401: "authentication",
    404: "not_found",
    413: "too_large",
    429: "rate_limit",
    503: "overloaded",
}
"""By status; other 4xx count as `invalid`."""


class RequestMetrics:
    """Counters and histograms of requests, in the registry of one app.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = Counter(
            "llamacart_requests_refused",
            "HTTP requests that were refused.",
            ["reason"],
            registry=registry,
        )
        for reason in (*REFUSALS.values(), "invalid"):
            self.refused.labels(reason)
        self.first_token = Histogram(
            "llamacart_time_to_first_token_seconds",
            "From the arrival of a generation to its first token.",
            buckets=_LONG,
            registry=registry,
        )
        self.inter_token = Histogram(
            "llamacart_inter_token_latency_seconds",
            "Between two tokens of a generation.",
            buckets=_SHORT,
            registry=registry,
        )
        self.end_to_end = Histogram(
            "llamacart_e2e_request_latency_seconds",
            "From the arrival of a generation to its end, where it was not cancelled.",
            buckets=_LONG,
            registry=registry,
        )
        self.queue = Histogram(
            "llamacart_request_queue_time_seconds",
            "From the arrival of a generation to its first step.",
            buckets=_LONG,
            registry=registry,
        )
        self.cartridge_requests = Counter(
            "llamacart_cartridge_requests",
            "Generations that a cartridge acted on.",
            ["cartridge"],
            registry=registry,
        )
        self.cartridge_alpha = Histogram(
            "llamacart_cartridge_alpha",
            "Strengths at which a cartridge acted.",
            ["cartridge"],
            buckets=_ALPHA,
            registry=registry,
        )

        self.cartridge_dose = Histogram(
            "llamacart_cartridge_dose",
            "Measured size of a cartridge's deltas over that of the activations it acted on; "
            "one mean for each generation that it acted on alone.",
            ["cartridge"],
            buckets=_DOSE,
            registry=registry,
        )

    def answered(self, status: int) -> None:
        """Count an answer, if it is a refusal; a client that has left was not refused."""
        if status != CLIENT_CLOSED_REQUEST and (400 <= status < 500 or status in REFUSALS):
            self.refused.labels(REFUSALS.get(status, "invalid")).inc()

    def accepted(self, request: GenerationRequest) -> None:
        """Count the cartridges of a generation."""
        for placed in request.doses:
            name = placed.dose.cartridge.name
            self.cartridge_requests.labels(name).inc()
            self.cartridge_alpha.labels(name).observe(placed.dose.alpha)

    def measured(self, request: GenerationRequest, report: GenerationReport) -> None:
        """Count the dose of a generation that has ended, where one cartridge acted alone."""
        dose = report.mean_dose
        if len(request.doses) == 1 and dose is not None and math.isfinite(dose):
            self.cartridge_dose.labels(request.doses[0].dose.cartridge.name).observe(dose)


class ObservedEngine:
    """An engine whose generations are timed.

    Args:
        engine: Where they run.
        metrics: Where the times go.
    """

    def __init__(self, engine: Submitter, metrics: RequestMetrics) -> None:
        self._engine = engine
        self._metrics = metrics

    def submit(self, request: GenerationRequest) -> GenerationLike:
        """See `Submitter`."""
        begun = time.perf_counter()
        generation = self._engine.submit(request)
        self._metrics.accepted(request)
        return ObservedGeneration(generation, self._metrics, request, begun)


class ObservedGeneration:
    """A generation that is timed, as its caller gets the tokens.

    Args:
        generation: What is timed.
        metrics: Where the times go.
        request: What it answers.
        begun: When it was submitted, by `time.perf_counter`.
    """

    def __init__(
        self,
        generation: GenerationLike,
        metrics: RequestMetrics,
        request: GenerationRequest,
        begun: float,
    ) -> None:
        self._generation = generation
        self._metrics = metrics
        self._request = request
        self._begun = begun
        self._over = False

    @property
    def report(self) -> GenerationReport:
        """See `GenerationLike`."""
        return self._generation.report

    def cancel(self) -> None:
        """See `GenerationLike`."""
        self._over = True
        self._generation.cancel()

    def finish(self) -> None:
        """See `GenerationLike`."""
        self._end()
        self._generation.finish()

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        """Yield events as they come."""
        last: float | None = None
        async for event in self._generation:
            now = time.perf_counter()
            if last is None:
                self._metrics.first_token.observe(now - self._begun)
                waited = self._generation.report.queue_seconds
                if waited is not None:
                    self._metrics.queue.observe(waited)
            else:
                self._metrics.inter_token.observe(now - last)
            last = now
            if event.finish_reason is not None:
                self._end()
            yield event

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._metrics.end_to_end.observe(time.perf_counter() - self._begun)
            self._metrics.measured(self._request, self._generation.report)
