from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import typer
from typer.testing import CliRunner

from llamacart.errors import ModelNotFoundError
from llamacart_server.commands.remote import RemoteError
from llamacart_server.commands.verify_export import verify_export

APP = typer.Typer()
APP.command()(verify_export)


class Engine:
    """An OpenAI-compatible server of two ids, or a llama-server with adapters."""

    def __init__(self, *, adapters=None, acts=True, steady=True) -> None:
        self.adapters, self.acts, self.steady = adapters, acts, steady
        self.bodies: list[dict] = []
        self.cards = [{"id": "base"}, {"id": "french", "parent": "base"}]

    def get(self, path):
        if path == "/v1/models":
            return {"data": self.cards}
        return self.adapters if path == "/lora-adapters" else None

    def post(self, body):
        self.bodies.append(body)
        scales = [own["scale"] for own in body.get("lora", [])]
        on = body["model"] == "french" if self.adapters is None else any(scales)
        chance = "" if self.steady else str(len(self.bodies))
        text = "le chat" if on and self.acts else "the cat"
        return {"choices": [{"text": text + chance}]}


@pytest.fixture
def served():
    """Function from an engine to its address."""
    servers = []

    def start(engine: Engine) -> str:
        class Handler(BaseHTTPRequestHandler):
            def answer(self, value):
                raw = json.dumps(value).encode()
                self.send_response(404 if value is None else 200)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def do_GET(self):
                self.answer(engine.get(self.path))

            def do_POST(self):
                size = int(self.headers["Content-Length"])
                self.answer(engine.post(json.loads(self.rfile.read(size))))

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def run(url, *options):
    return CliRunner().invoke(APP, [url, *options], catch_exceptions=False)


def test_an_adapter_that_acts(served) -> None:
    engine = Engine()
    done = run(served(engine), "--model", "french", "--prompt", "Look, it is")
    assert done.exit_code == 0
    assert "french acts (1 of 1 texts are other ones)" in done.output
    assert "'le chat'" in done.output
    assert [body["model"] for body in engine.bodies] == ["base", "french", "base"]
    assert {body["temperature"] for body in engine.bodies} == {0}


def test_one_that_does_not(served) -> None:
    done = run(served(Engine(acts=False)), "--model", "french", "--json")
    assert done.exit_code == 1
    found = json.loads(done.output)
    assert found["acts"] is False
    assert len(found["answers"]) == 5


def test_chance_does_not_count(served) -> None:
    done = run(served(Engine(steady=False)), "--model", "french")
    assert done.exit_code == 1
    assert "something else the second time" in done.output


def test_llama_server_scales_its_adapters(served) -> None:
    adapters = [{"id": 0, "path": "/a/moon.gguf"}, {"id": 1, "path": "/a/french.gguf"}]
    engine = Engine(adapters=adapters)
    url = served(engine)
    assert run(url, "--model", "french", "--prompt", "x").exit_code == 0
    scales = [[own["scale"] for own in body["lora"]] for body in engine.bodies]
    assert scales == [[0, 0], [0, 1], [0, 0]]
    with pytest.raises(ModelNotFoundError, match=r"no adapter 'pirate'; it has '/a/moon\.gguf'"):
        run(url, "--model", "pirate")


def test_ids_that_are_not_there(served) -> None:
    engine = Engine()
    url = served(engine)
    with pytest.raises(ModelNotFoundError, match="no model 'moon'; it has base, french"):
        run(url, "--model", "moon")
    engine.cards = [{"id": "french"}]
    with pytest.raises(ModelNotFoundError, match="--base names another"):
        run(url, "--model", "french")


def test_what_is_no_completion(served, monkeypatch) -> None:
    engine = Engine()
    monkeypatch.setattr(engine, "post", lambda body: {"no": "choices"})
    with pytest.raises(RemoteError, match="answers with no completion"):
        run(served(engine), "--model", "french")
