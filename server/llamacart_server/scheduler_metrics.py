"""Gauges by which a router of a fleet chooses a server: queue, KV use, which cartridges are here.

They are what the model server protocol of the Gateway API inference extension asks for.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from llamacart_server.engine.interface import EngineLike
    from llamacart_server.engine.stats import EngineStats
    from llamacart_server.library.library import CartridgeLibrary, Snapshot
    from llamacart_server.served import ServedModel

BLOCK = 64
"""Tokens of a block as it is told to routers. Rows are reused one by one here; routers hash
prompts in blocks of at least this many tokens."""

_LABELS = ("max_lora", "running_lora_adapters", "waiting_lora_adapters")


class AdapterState:
    """Which model ids with a cartridge are here or waited for, and since when.

    Resident ones are listed, not those in use: an idle cartridge answers as fast as a busy one.
    None beyond them is loaded by asking for it, so there is room for as many as there are; a
    router then prefers a server that has the cartridge to all that do not.

    Args:
        model_id: Of the base model.
        library: The cartridges there are.
        clock: Unix time, in seconds.
    """

    def __init__(
        self, model_id: str, library: CartridgeLibrary, clock: Callable[[], float] = time.time
    ) -> None:
        self._model_id = model_id
        self._library = library
        self._clock = clock
        self._lock = threading.Lock()
        self._joined: tuple[Snapshot | None, str] = (None, "")
        self._seen: tuple[list[str], float] = ([], 0.0)

    def read(self, waiting: tuple[str, ...]) -> tuple[list[str], float]:
        """Values of the labels, and the time at which a reader first saw them.

        Args:
            waiting: Ids of the cartridges that queued requests want.
        """
        with self._lock:
            snapshot = self._library.snapshot
            if self._joined[0] is not snapshot:
                self._joined = (snapshot, self._model_ids(snapshot.ids))
            labels = [str(len(snapshot.ids)), self._joined[1], self._model_ids(waiting)]
            if labels != self._seen[0]:
                self._seen = (labels, self._clock())
            return self._seen

    def _model_ids(self, cartridge_ids: tuple[str, ...]) -> str:
        return ",".join(f"{self._model_id}:{cartridge_id}" for cartridge_id in cartridge_ids)


class SchedulerCollector:
    """Reads what routers want to know when they ask.

    Args:
        engine: Whose queue and cells.
        library: The cartridges there are.
        model: The base model.
        vllm: Whether the names of vLLM, which some routers hard-code, stand beside our own.
        clock: Unix time, in seconds.
    """

    def __init__(
        self,
        engine: EngineLike,
        library: CartridgeLibrary,
        model: ServedModel,
        *,
        vllm: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._model = model
        self._vllm = vllm
        self._adapters = AdapterState(model.id, library, clock)

    def describe(self) -> list[Metric]:
        """Nothing: names are known without asking the engine."""
        return []

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        stats = self._engine.stats()
        usage = (stats.kv_used - stats.kv_cached) / self._model.n_ctx
        yield GaugeMetricFamily(
            "llamacart_kv_usage_ratio",
            "Share of the KV cells that requests hold; what only the prefix cache holds is free.",
            value=usage,
        )
        yield from self._infos("llamacart_", stats)
        if self._vllm:
            yield from self._as_vllm(stats, usage)
            yield from self._infos("vllm:", stats)

    def _infos(self, prefix: str, stats: EngineStats) -> Iterator[Metric]:
        blocks = GaugeMetricFamily(
            f"{prefix}cache_config_info",
            "The KV cache in blocks as routers count them.",
            labels=("block_size", "num_gpu_blocks"),
        )
        blocks.add_metric([str(BLOCK), str(max(1, self._model.n_ctx // BLOCK))], 1)
        yield blocks
        adapters = GaugeMetricFamily(
            f"{prefix}lora_requests_info",
            "Model ids of resident cartridges and of those waited for; since when, Unix time.",
            labels=_LABELS,
        )
        adapters.add_metric(*self._adapters.read(stats.waiting_cartridges))
        yield adapters

    def _as_vllm(self, stats: EngineStats, usage: float) -> Iterator[Metric]:
        gauges = {
            "num_requests_running": ("Requests that are computed.", stats.running),
            "num_requests_waiting": ("Requests that wait.", stats.queued),
            "kv_cache_usage_perc": ("Share of the KV cells in use, 0 to 1.", usage),
            "gpu_cache_usage_perc": ("The same under its old name.", usage),
        }
        for name, (text, value) in gauges.items():
            gauge = GaugeMetricFamily(f"vllm:{name}", text, labels=["model_name"])
            gauge.add_metric([self._model.id], value)
            yield gauge
        counters = {
            "prefix_cache_queries": ("Prompt tokens.", stats.prompt_tokens),
            "prefix_cache_hits": ("Prompt tokens that the cache had.", stats.cached_tokens),
        }
        for prefix in ("", "gpu_"):  # its name, and its old name
            for name, (text, value) in counters.items():
                counter = CounterMetricFamily(f"vllm:{prefix}{name}", text, labels=["model_name"])
                counter.add_metric([self._model.id], value)
                yield counter
