"""The real engine behind the real routes, on a random model of three layers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import numpy as np
import openai
import pytest
import typer
from typer.testing import CliRunner

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.errors import CartridgeError, InputError, ModelError
from llamacart.file.writer import write_cartridge
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.passes.generate import greedy
from llamacart.runner import LlamaRunner
from llamacart.values.batch import Batch
from llamacart_server.app import create_app
from llamacart_server.commands import serve as cli
from llamacart_server.engine.engine import Engine
from llamacart_server.library.library import CartridgeLibrary
from llamacart_server.served import describe
from llamacart_server.settings import load_settings

PROMPT = {"prompt": "Once upon", "max_tokens": 12, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("cartridges")
    for seed, name in enumerate(("up", "down")):
        bias = np.random.default_rng(seed).normal(size=32).astype(np.float32) * 2
        layer = LayerMap(1, np.arange(32, dtype=np.int32), None, bias)
        metadata = Metadata(name, created="2026-01-02T03:04:05Z")
        cartridge = Cartridge(metadata, tiny_model.fingerprint, (layer,))
        write_cartridge(cartridge, folder / f"{name}.gguf")
    return folder


@pytest.fixture(scope="module")
def settings(folder, tiny_path):
    return load_settings(
        model=str(tiny_path()),
        cartridges=folder,
        ctx=512,
        parallel=4,
        batch=64,
        threads=1,
        batch_invariant=True,
    )


@pytest.fixture
def tiny(settings, live):
    with ExitStack() as owned:
        app, _, _ = cli.build(settings, owned)
        url = owned.enter_context(live(app))
        yield owned.enter_context(httpx.Client(base_url=url, timeout=60))


def text(client, model="tiny", **fields):
    response = client.post("/v1/completions", json={"model": model, **PROMPT, **fields})
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["usage"]["completion_tokens"] == fields.get("max_tokens", PROMPT["max_tokens"])
    assert body["choices"][0]["finish_reason"] == "length"
    return body["choices"][0]["text"]


def test_cartridges_per_request(tiny):
    plain = text(tiny)
    models = ["tiny", "tiny:up", "tiny:down", "tiny:up@0.5", "tiny:up@0", "tiny:up+down"]
    alone = [text(tiny, model) for model in models]
    assert alone[4] == alone[0] == plain
    assert alone[1] == text(tiny, cartridge="up") != plain
    assert len(set(alone)) >= 4
    with ThreadPoolExecutor(len(models)) as pool:
        together = list(pool.map(lambda model: text(tiny, model), models))
    assert [t == a for t, a in zip(together, alone, strict=True)] == [True] * len(models)


def test_without_flash_attention(settings):
    off = settings.model_copy(update={"flash_attention": "off"})
    with ExitStack() as owned, pytest.raises(InputError, match="flash_attention has value 'off'"):
        cli.build(off, owned)
    with ExitStack() as owned:
        cli.build(off.model_copy(update={"batch_invariant": False}), owned)


def test_streams_and_chat(tiny):
    body = {"model": "tiny:up", **PROMPT}
    streamed = tiny.post("/v1/completions", json={**body, "stream": True}).text
    chunks = [json.loads(f.removeprefix("data: ")) for f in streamed.split("\n\n")[:-2]]
    assert "".join(c["choices"][0]["text"] for c in chunks) == text(tiny, "tiny:up")
    messages = [{"role": "user", "content": "Hi"}]
    chat = tiny.post("/v1/chat/completions", json={"model": "tiny", "messages": messages})
    assert chat.json()["choices"][0]["message"]["role"] == "assistant"
    assert tiny.get("/v1/models/tiny").json()["chat_template"] == "builtin:chatml"


def test_each_token_has_its_dose(tiny):
    def told(model, **fields):
        body = {"model": model, **PROMPT, "telemetry": "tokens", **fields}
        return tiny.post("/v1/completions", json=body).json()["choices"][0]

    one, two = told("tiny:up"), told("tiny:up@2")
    for choice, model in ((one, "tiny:up"), (two, "tiny:up@2")):
        assert choice["text"] == text(tiny, model), "being watched changes nothing"
        tokens = choice["telemetry"]["tokens"]
        assert len(tokens) == PROMPT["max_tokens"]
        assert all(t["layers"].keys() == {"1"} and t["dose"] == t["layers"]["1"] for t in tokens)
        assert len({t["dose"] for t in tokens}) > 1
    first = [choice["telemetry"]["tokens"][0]["dose"] for choice in (one, two)]
    # Nothing acts before layer 1, so what the first token's row is there does not depend on α.
    assert first[1] == pytest.approx(2 * first[0], rel=1e-5)
    for model in ("tiny", "tiny:up@0"):
        assert {t["dose"] for t in told(model)["telemetry"]["tokens"]} == {None}
    late = told("tiny", cartridges=[{"id": "up", "apply_to": "generated"}])
    doses = [t["dose"] for t in late["telemetry"]["tokens"]]
    assert doses[0] is None
    assert None not in doses[1:]


def test_a_cartridge_is_replaced_under_an_open_request(settings, folder, tmp_path, live):
    own = shutil.copytree(folder, tmp_path / "own")
    given = settings.model_dump() | {"cartridges": own, "admin_key": "boss"}
    upload = {"url": "/v1/cartridges?id=up", "content": (own / "down.gguf").read_bytes()}
    with ExitStack() as owned:
        app, _, _ = cli.build(load_settings(**given), owned)
        client = httpx.Client(
            base_url=owned.enter_context(live(app)), timeout=60, headers={"X-Api-Key": "boss"}
        )
        owned.enter_context(client)
        up, down = text(client, "tiny:up"), text(client, "tiny:down")
        assert up != down
        body = {**PROMPT, "model": "tiny:up", "max_tokens": 300, "stream": True}
        whole = pieces(client.post("/v1/completions", json=body).text.splitlines())
        with client.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.iter_lines()
            first = next(lines)
            kind = {"Content-Type": "application/octet-stream"}
            assert client.post(**upload, headers=kind).status_code == 200
            # The same id and prompt: had the cache's key not changed, this were still `up`.
            assert text(client, "tiny:up") == down
            assert pieces([first, *lines]) == whole
        assert client.delete("/v1/cartridges/up").status_code == 200
        assert text(client, "tiny:down") == down


def pieces(lines):
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


def test_echoed_log_probabilities_are_llama_cpps_own(tiny, settings):
    prompt = [5, 60, 7, 99, 23, 150, 42, 8, 77, 31, 12]
    fields = {"echo": True, "logprobs": 3, "max_tokens": 4, "prompt": prompt}
    body = {"model": "tiny", **PROMPT, **fields}
    n = len(prompt) + 4
    with ExitStack() as owned:
        model = owned.enter_context(Model(settings.model, batch_invariant=True))
        context = owned.enter_context(Context(model, n_ctx=64, n_batch=64, n_threads=1))
        tokens = [*prompt, *greedy(model, [prompt], 4, n_threads=1)[0]]
        context.decode(Batch(tokens, range(n), [0] * n, [True] * n))
        rows = np.array([context.logits(i) for i in range(n)], np.float64)
    scores = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    expected = [scores[i, token] for i, token in enumerate(tokens[1:])]
    for _ in range(2):  # the second time the rows are in the cache
        response = tiny.post("/v1/completions", json=body)
        logprobs = response.json()["choices"][0]["logprobs"]
        assert len(logprobs["tokens"]) == len(logprobs["text_offset"]) == n
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["token_logprobs"][1:] == pytest.approx(expected, abs=1e-3)
        for i, top in enumerate(logprobs["top_logprobs"][1:]):
            assert max(top.values()) == pytest.approx(scores[i].max(), abs=1e-3)


def test_choices_of_one_prompt_are_what_they_are_alone(tiny):
    body = {"model": "tiny", **PROMPT, "temperature": 1.0, "seed": 11}
    several = tiny.post("/v1/completions", json={**body, "n": 3}).json()["choices"]
    alone = [text(tiny, temperature=1.0, seed=11 + i) for i in range(3)]
    assert [choice["text"] for choice in several] == alone
    assert len(set(alone)) == 3


def test_a_comparison_is_what_both_are_alone(tiny):
    body = {**PROMPT, "model": "tiny:up", "temperature": 1.0, "seed": 3, "compare": True}
    choices = tiny.post("/v1/completions", json=body).json()["choices"]
    alone = [text(tiny, model, temperature=1.0, seed=3) for model in ("tiny", "tiny:up")]
    assert [choice["text"] for choice in choices] == alone
    assert len(set(alone)) == 2


def test_embeddings_while_others_generate(tiny):
    def embed(model="tiny"):
        response = tiny.post("/v1/embeddings", json={"model": model, "input": ["Hi " * 40, "x"]})
        return [item["embedding"] for item in response.json()["data"]]

    quiet = embed()
    with ThreadPoolExecutor(3) as pool:
        texts = [pool.submit(text, tiny, max_tokens=200) for _ in range(2)]
        busy = embed()
        assert len({future.result() for future in texts}) == 1
    assert busy == quiet
    assert embed("tiny:up") != quiet
    assert embed("tiny:up@0") == quiet


def test_json_under_a_schema_is_valid_by_construction(tiny):
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["a", "b"]},
            "size": {"type": "integer", "minimum": 1, "maximum": 99},
            "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        },
        "required": ["kind", "size"],
    }
    for seed in range(8):
        response = tiny.post(
            "/v1/chat/completions",
            json={
                "model": "tiny",
                "messages": [{"role": "user", "content": "Hi"}],
                "seed": seed,
                "max_tokens": 300,
                "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
            },
        )
        (choice,) = response.json()["choices"]
        assert choice["finish_reason"] == "stop"
        value = json.loads(choice["message"]["content"])
        assert value["kind"] in ("a", "b")
        assert 1 <= value["size"] <= 99
        assert set(value) <= {"kind", "size", "tags"}


def test_responses(tiny):
    given = {"temperature": 0, "extra_body": {"ignore_eos": True}}
    with openai.OpenAI(base_url=f"{tiny.base_url}/v1", api_key="none") as sdk:
        texts = []
        for model in ("tiny", "tiny:up"):
            ask = {**given, "model": model, "input": "Hi", "max_output_tokens": 12}
            whole = sdk.responses.create(**ask)
            messages = [{"role": "user", "content": "Hi"}]
            chat = sdk.chat.completions.create(
                model=model, messages=messages, max_tokens=12, **given
            )
            assert whole.output_text == chat.choices[0].message.content
            assert (whole.status, whole.usage.output_tokens) == ("incomplete", 12)
            assert whole.usage.input_tokens == chat.usage.prompt_tokens
            *events, last = sdk.responses.create(**ask, stream=True)
            deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
            assert "".join(deltas) == last.response.output_text == whole.output_text
            assert last.type == "response.incomplete"
            texts.append(whole.output_text)
        assert texts[0] != texts[1]


def test_responses_with_a_call_and_with_a_schema(settings, live):
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 22]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "name": "count", "parameters": schema, "strict": True}
    form = {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}
    given = {"model": "tiny", "input": "Hi", "max_output_tokens": 300}
    with ExitStack() as owned:
        # A byte a token, so that telling of the tool takes nearly 500 of them.
        app, _, _ = cli.build(load_settings(**settings.model_dump() | {"ctx": 1024}), owned)
        url = owned.enter_context(live(app))
        sdk = owned.enter_context(openai.OpenAI(base_url=f"{url}/v1", api_key="none"))
        with sdk.responses.stream(**given, tools=[tool], tool_choice="required") as stream:
            (call,) = stream.get_final_response().output
        assert call.name == "count"
        assert call.parsed_arguments["n"] in (1, 22)
        answer = sdk.responses.create(**given, text=form)
        assert json.loads(answer.output_text)["n"] in (1, 22)


def test_what_does_not_fit(tiny):
    response = tiny.post("/v1/completions", json={"model": "tiny", "prompt": "x" * 600})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert "maximum context length is 512 tokens" in response.json()["error"]["message"]


def test_times_in_the_metrics(tiny):
    begun = time.monotonic()
    with ThreadPoolExecutor(8) as pool:  # twice as many as can run at once
        list(pool.map(lambda _: text(tiny, "tiny:up"), range(8)))
    wall = time.monotonic() - begun
    samples = dict(
        line.rsplit(" ", 1)
        for line in tiny.get("/metrics").text.splitlines()
        if not line.startswith("#")
    )
    seen = {name.removeprefix("llamacart_"): float(value) for name, value in samples.items()}
    names = ("request_queue_time", "time_to_first_token", "e2e_request_latency")
    assert [seen[f"{name}_seconds_count"] for name in names] == [8] * 3
    queue, first, whole = (seen[f"{name}_seconds_sum"] for name in names)
    assert 0 < queue < first < whole < 8 * wall
    assert seen["inter_token_latency_seconds_count"] == 8 * (PROMPT["max_tokens"] - 1)
    assert seen['cartridge_requests_total{cartridge="up"}'] == 8


def run(**options):
    app = typer.Typer()
    app.command()(cli.serve)
    given = (([f"--{k}"] if v is True else [f"--{k}", str(v)]) for k, v in options.items())
    arguments = [part for parts in given for part in parts]
    return CliRunner().invoke(app, arguments, catch_exceptions=True).exception


def test_serve_lets_expected_errors_through(folder, tiny_path, own_log):
    assert isinstance(run(model="/nowhere.gguf"), ModelError)
    other = tiny_path(seed=5)
    error = run(model=other, cartridges=folder, strict=True)
    assert isinstance(error, CartridgeError)
    assert "down.gguf" in error.message


def test_idle_connections_are_closed_by_their_clients(settings, monkeypatch, own_log):
    """Who sends a request must not find that the server has just closed the connection."""
    seen = {}

    def note(_app, **given):
        seen.update(given)
        raise InterruptedError

    monkeypatch.setattr(cli.uvicorn, "Config", note)
    monkeypatch.setattr(sys, "setswitchinterval", lambda _seconds: None)
    with pytest.raises(InterruptedError):
        cli.run(load_settings(**settings.model_dump() | {"port": 0}))
    limits = (httpx.Limits(), openai.DEFAULT_CONNECTION_LIMITS)
    assert all(seen["timeout_keep_alive"] > 10 * limit.keepalive_expiry for limit in limits)


def test_serve_from_start_to_signal(settings, folder):
    command = [
        sys.executable,
        "-c",
        "import typer, llamacart_server.commands.serve as c; typer.run(c.serve)",
    ]
    options = [
        "--model",
        settings.model,
        "--cartridges",
        str(folder),
        "--port",
        "0",
        "--ctx",
        "512",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(  # noqa: S603
        command + options,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            greeting = process.stdout.readline()
            assert "models: tiny, tiny:down, tiny:up" in greeting, process.stderr.read()
            url = greeting.split()[2].rstrip(",")
            ids = [m["id"] for m in httpx.get(f"{url}/models", timeout=60).json()["data"]]
            assert ids == ["tiny", "tiny:down", "tiny:up"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, process.stderr.read()
        finally:
            process.kill()


def test_a_client_that_leaves_frees_its_slot(tiny_model, live, until):
    with LlamaRunner(tiny_model, n_ctx=512, n_sequences=4) as runner, Engine(runner) as engine:
        run = runner.run

        def held(batch):
            if batch.positions[-1] > 20:  # in the middle of its answer
                until(lambda: engine._leaving)
            return run(batch)

        runner.run = held
        served = describe(tiny_model, runner.n_ctx)
        app = create_app(engine, CartridgeLibrary(), served, load_settings())
        with live(app) as url:
            body = {"model": "tiny", "prompt": "a", "max_tokens": 400, "ignore_eos": True}
            body["stream"] = True
            path = f"{url}/v1/completions"
            with httpx.stream("POST", path, json=body, timeout=60) as stream:
                next(stream.iter_lines())
            until(lambda: not engine.stats().running)
            stats = engine.stats()
            assert (stats.running, stats.finished, stats.cancelled) == (0, 0, 1)


def test_a_store_is_followed_while_the_server_runs(
    settings, folder, live, tmp_path, monkeypatch, until
):
    monkeypatch.setenv("LLAMACART_CACHE", str(tmp_path / "cache"))
    store = tmp_path / "store"
    store.mkdir()
    shutil.copy(folder / "up.gguf", store)
    change = {"cartridges": f"file://{store}", "refresh_seconds": 0.01}
    with ExitStack() as owned:
        app, _, library = cli.build(settings.model_copy(update=change), owned)
        assert library.ids == ("up",)
        shutil.copy(folder / "down.gguf", store)
        until(lambda: library.ids == ("down", "up"))
        url = owned.enter_context(live(app))
        client = owned.enter_context(httpx.Client(base_url=url, timeout=60))
        assert text(client, "tiny:up") != text(client, "tiny:down")
        (store / "up.gguf").unlink()
        until(lambda: library.ids == ("down",))
    assert len(list((tmp_path / "cache" / "cartridges").glob("*.gguf"))) == 2
