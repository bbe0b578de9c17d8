"""What a router of a fleet reads, as the model server protocol of the Gateway API inference
extension (proposal 003) and llm-d-router's `core-metrics-extractor` and `lora-affinity-scorer`
say that they read it."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from llamacart_server.library.library import CartridgeLibrary, Entry
from llamacart_server.scheduler_metrics import BLOCK, AdapterState, SchedulerCollector

ROUTER = Path(__file__).parents[2] / "docker" / "kubernetes" / "router.yaml"


def own_names():
    """Those that the manifests tell the router."""
    [document] = [d for d in yaml.safe_load_all(ROUTER.read_text()) if d["kind"] == "ConfigMap"]
    plugins = yaml.safe_load(document["data"]["router.yaml"])["plugins"]
    [extractor] = [p["parameters"] for p in plugins if p["type"] == "core-metrics-extractor"]
    [engine] = extractor["engineConfigs"]
    return {
        "queued": engine["queuedRequestsSpec"],
        "running": engine["runningRequestsSpec"],
        "kv": engine["kvUsageSpec"],
        "lora": engine["loraSpec"],
        "cache": engine["cacheInfoSpec"],
    }


OWN = own_names()
# What the extractor reads of an engine that it takes for vLLM.
VLLM = {
    "queued": "vllm:num_requests_waiting",
    "running": "vllm:num_requests_running",
    "kv": "vllm:kv_cache_usage_perc",
    "lora": "vllm:lora_requests_info",
    "cache": "vllm:cache_config_info",
}
FIGURES = {"running": 3, "queued": 2, "kv_used": 300, "kv_cached": 44}
HERE = {"fake-1b:formal", "fake-1b:french"}


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


class Seen:
    """What a router knows of a server once it has read its metrics.

    Args:
        text: Of `/metrics`.
        names: Which metric it takes for which figure.
    """

    def __init__(self, text, names):
        there = families(text)
        read = {what: there[name] for what, name in names.items()}
        assert {family.type for family in read.values()} == {"gauge"}
        assert {len(family.samples) for family in read.values()} == {1}
        first = {what: family.samples[0] for what, family in read.items()}
        self.queued, self.running, self.kv = (first[w].value for w in ("queued", "running", "kv"))
        self.since = first["lora"].value
        lora, cache = first["lora"].labels, first["cache"].labels
        self.room = int(lora["max_lora"])
        self.active = self._ids(lora["running_lora_adapters"])
        self.waiting = self._ids(lora["waiting_lora_adapters"])
        self.blocks = (int(cache["block_size"]), int(cache["num_gpu_blocks"]))

    @staticmethod
    def _ids(listed):
        return {name.strip() for name in listed.split(",") if name.strip()}

    def score(self, model):
        """How well the server suits a request for `model`: 1 where it has the adapter, 0.8 where
        it could load another, 0.6 where it is about to load it."""
        if model in self.active:
            return 1.0
        if len(self.active) + len(self.waiting) < self.room:
            return 0.8
        return 0.6 if model in self.waiting else 0.0


@pytest.mark.parametrize(("names", "setting"), [(OWN, "own"), (OWN, "vllm"), (VLLM, "vllm")])
def test_a_router_reads_load_and_cartridges(serve, engine, served, names, setting):
    engine.figures |= {**FIGURES, "waiting_cartridges": ("french",)}
    client = serve(engine, metrics_names=setting)
    before = time.time()
    seen = Seen(client.get("/metrics").text, names)
    assert (seen.queued, seen.running) == (2, 3)
    assert seen.kv == pytest.approx(256 / served.n_ctx)
    assert seen.blocks == (BLOCK, served.n_ctx // BLOCK)
    assert seen.active == HERE
    assert seen.waiting == {"fake-1b:french"}
    assert before <= seen.since <= time.time()


def test_the_ids_are_those_that_requests_name(serve, engine):
    client = serve(engine)
    listed = {m["id"] for m in client.get("/v1/models").json()["data"] if m["parent"]}
    assert Seen(client.get("/metrics").text, OWN).active == listed


@pytest.mark.parametrize("waiting", [(), ("french",)])
def test_who_has_the_cartridge_is_preferred_and_who_lacks_it_comes_last(serve, engine, waiting):
    engine.figures |= {"waiting_cartridges": waiting}
    seen = Seen(serve(engine).get("/metrics").text, OWN)
    assert seen.score("fake-1b:french") == 1.0
    assert seen.score("fake-1b:spanish") == 0.0


def test_there_are_no_names_of_others_unless_they_are_asked_for(serve, engine):
    text = serve(engine).get("/metrics").text
    assert not [name for name in families(text) if name.startswith("vllm:")]


def test_the_share_of_the_prefix_cache_that_hits(serve, engine):
    engine.figures |= {"prompt_tokens": 200, "cached_tokens": 50}
    there = families(serve(engine, metrics_names="vllm").get("/metrics").text)
    for old in ("", "gpu_"):
        counts = [there[f"vllm:{old}prefix_cache_{name}"] for name in ("queries", "hits")]
        assert [c.type for c in counts] == ["counter", "counter"]
        assert [c.samples[0].value for c in counts] == [200, 50]
        assert counts[0].samples[0].labels == {"model_name": "fake-1b"}


def test_the_time_is_that_of_the_last_change(cartridge_named):
    library = CartridgeLibrary([cartridge_named("french")])
    moments = iter([10.0, 20.0, 30.0, 40.0])
    state = AdapterState("m", library, lambda: next(moments))
    assert state.read(()) == (["1", "m:french", ""], 10.0)
    assert state.read(()) == (["1", "m:french", ""], 10.0)
    library.replace(library.snapshot.with_entry(Entry(cartridge_named("formal"))))
    assert state.read(()) == (["2", "m:formal,m:french", ""], 20.0)
    assert state.read(("french",)) == (["2", "m:formal,m:french", "m:french"], 30.0)
    assert state.read(("french",))[1] == 30.0
    library.replace(library.snapshot.without("french"))
    assert state.read(())[1] == 40.0


def test_a_cache_smaller_than_a_block_is_one_block(engine, served, library):
    registry = CollectorRegistry()
    small = replace(served, n_ctx=BLOCK - 1)
    registry.register(SchedulerCollector(engine, library, small))
    text = generate_latest(registry).decode()
    assert families(text)["llamacart_cache_config_info"].samples[0].labels["num_gpu_blocks"] == "1"


def test_a_server_without_cartridges(engine, served):
    registry = CollectorRegistry()
    registry.register(SchedulerCollector(engine, CartridgeLibrary(), served))
    sample = families(generate_latest(registry).decode())["llamacart_lora_requests_info"].samples[0]
    assert sample.labels == {
        "max_lora": "0",
        "running_lora_adapters": "",
        "waiting_lora_adapters": "",
    }
