"""What Prometheus reads, against what was done."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from llamacart.errors import OverloadedError
from llamacart_server.engine.request import GenerationReport
from llamacart_server.middleware.request_metrics import RequestMetrics

BODY = {"model": "demo", "prompt": "a"}


class Scrape(dict):
    """Samples of one scrape by name and labels."""

    def __init__(self, client):
        super().__init__()
        for family in text_string_to_metric_families(client.get("/metrics").text):
            for sample in family.samples:
                self[sample.name, *sorted(sample.labels.values())] = sample.value

    def of(self, name, *labels):
        return self[f"llamacart_{name}", *labels]


@pytest.fixture
def client(serve, engine):
    return serve(engine)


def test_times_of_a_generation(client, engine):
    engine.report = GenerationReport(queue_seconds=0.3)
    client.post("/v1/completions", json=BODY)
    client.post("/v1/completions", json={**BODY, "stream": True, "stop": "l"})
    seen = Scrape(client)
    assert seen.of("time_to_first_token_seconds_count") == 2
    # h e l l o and the end; then h e l, where the stop string ends it
    assert seen.of("inter_token_latency_seconds_count") == 5 + 2
    assert seen.of("e2e_request_latency_seconds_count") == 2
    assert (
        0 < seen.of("time_to_first_token_seconds_sum") < seen.of("e2e_request_latency_seconds_sum")
    )
    assert seen.of("request_queue_time_seconds_sum") == pytest.approx(0.6)
    assert seen.of("request_queue_time_seconds_bucket", "0.25") == 0
    assert seen.of("request_queue_time_seconds_bucket", "0.5") == 2


def test_what_never_started_has_no_times(serve, engine):
    client = serve(engine, request_timeout=0.1)
    engine.script = []
    engine.hangs = True
    assert client.post("/v1/completions", json=BODY).status_code == 504
    seen = Scrape(client)
    for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time"):
        assert seen.of(f"{name}_seconds_count") == 0


def test_cartridges(client):
    for model in ("demo:french", "demo:french@0.4", "demo:french+formal", "demo:french@0", "demo"):
        client.post("/v1/completions", json={**BODY, "model": model})
    seen = Scrape(client)
    assert seen.of("cartridge_requests_total", "french") == 3
    assert seen.of("cartridge_requests_total", "formal") == 1
    assert seen.of("cartridge_alpha_sum", "french") == pytest.approx(0.8 + 0.4 + 0.8)
    assert seen.of("cartridge_alpha_bucket", "0.4", "french") == 1
    assert seen.of("cartridge_alpha_bucket", "0.8", "french") == 3


def test_measured_doses(client, engine):
    doses = {"demo:french": 0.25, "demo:formal@2": float("inf"), "demo:french+formal": 0.5}
    for model, dose in doses.items():
        engine.report = GenerationReport(mean_dose=dose)
        client.post("/v1/completions", json={**BODY, "model": model})
    assert all(request.sample_dose for request in engine.requests)
    seen = Scrape(client)
    assert seen.of("cartridge_dose_count", "french") == 1
    assert seen.of("cartridge_dose_sum", "french") == 0.25
    assert ("llamacart_cartridge_dose_count", "formal") not in seen
    client.post("/v1/completions", json=BODY)
    assert not engine.requests[-1].sample_dose


def test_cells_used_and_cells_there_are(client, engine, served):
    engine.figures |= {"kv_used": 3}
    seen = Scrape(client)
    assert (seen.of("kv_cells_used"), seen.of("kv_cells")) == (3, served.n_ctx)


def test_refusals(serve, engine, still_clock):
    client = serve(engine, api_key="k", rate_limit=5, max_body_bytes=1000)
    engine.refusals = [OverloadedError("full")]
    key = {"X-Api-Key": "k"}
    sent = [
        (BODY, key, 503),
        ({**BODY, "model": "gpt-4"}, key, 404),
        ({**BODY, "max_tokens": -1}, key, 400),
        ({**BODY, "prompt": "x" * 2000}, key, 413),
        (BODY, key, 200),
        (BODY, key, 429),
        (BODY, {}, 401),
        (BODY, {}, 401),
    ]
    for body, headers, status in sent:
        answer = client.post("/v1/completions", json=body, headers=headers)
        assert answer.status_code == status
    client.headers.update(key)
    seen = Scrape(client)
    reasons = ("overloaded", "not_found", "invalid", "too_large", "rate_limit", "authentication")
    assert [seen.of("requests_refused_total", r) for r in reasons] == [1, 1, 1, 1, 1, 2]


def test_a_client_that_left_was_not_refused():
    registry = CollectorRegistry()
    counted = RequestMetrics(registry)
    for status in (200, 499, 400, 503, 500):
        counted.answered(status)
    seen = {
        reason: registry.get_sample_value("llamacart_requests_refused_total", {"reason": reason})
        for reason in ("invalid", "overloaded", "not_found")
    }
    assert seen == {"invalid": 1, "overloaded": 1, "not_found": 0}


def test_apps_do_not_share_figures(serve, engine):
    one, other = serve(engine), serve(engine)
    one.post("/v1/completions", json=BODY)
    assert Scrape(one).of("time_to_first_token_seconds_count") == 1
    assert Scrape(other).of("time_to_first_token_seconds_count") == 0


def test_engine_figures(client, engine):
    engine.figures |= {"running": 3, "cached_tokens": 7, "cancelled": 2}
    seen = Scrape(client)
    assert seen.of("requests_running") == 3
    assert seen.of("prompt_tokens_cached_total") == 7
    assert seen.of("requests_total", "cancelled") == 2


def test_the_dashboard_asks_for_what_there_is(client, engine):
    engine.report = GenerationReport(mean_dose=0.1)
    client.post("/v1/completions", json={**BODY, "model": "demo:french"})
    there = {name for name, *_ in Scrape(client)}
    path = Path(__file__).parents[3] / "docker/grafana/dashboards/llamacart.json"
    panels = json.loads(path.read_text())["panels"]
    wanted = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"llamacart_\w+", target["expr"])
    }
    assert len(wanted) > 15
    assert wanted <= there
