"""The ingress before a replica, joined without Ray, around the real application."""

import asyncio
import json
from contextlib import aclosing

import httpx
import pytest

from llamacart.errors import OverloadedError
from llamacart.file.writer import write_cartridge
from llamacart_server.app import create_app
from llamacart_server.library.library import CartridgeLibrary
from llamacart_server.library.source import Folder
from llamacart_server.ray_app.ingress import Call, ingress
from llamacart_server.ray_app.replica import Replica
from llamacart_server.ray_app.shelf import Shelf
from llamacart_server.settings import ServeSettings

URL = "/v1/completions"


class LostError(Exception):
    """What a router raises of a replica that is gone."""


class Joined:
    """Passes calls to a replica of this process, and loses as many as it is told."""

    lost = (LostError,)

    def __init__(self, replica):
        self.replica = replica
        self.calls: list[Call] = []
        self.losses: list[int] = []  # after how many messages

    async def names(self):
        return self.replica.names

    async def answer(self, call):
        self.calls.append(call)
        left = self.losses.pop(0) if self.losses else None
        async with aclosing(self.replica.answer(call)) as messages:
            async for message in messages:
                if left == 0:
                    raise LostError
                left = None if left is None else left - 1
                yield message


@pytest.fixture
def joined(engine, served, tmp_path, cartridge_named):
    for name in ("french", "formal"):
        write_cartridge(cartridge_named(name), tmp_path / f"{name}.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    app = create_app(engine, CartridgeLibrary(), served, ServeSettings(ui=False))
    app.state.lifecycle.start()
    shelf = Shelf(Folder(tmp_path), app.state.store)

    async def get(cartridge_id):
        await asyncio.to_thread(shelf.load, cartridge_id)

    return Joined(Replica(app, served, shelf, get, "one"))


@pytest.fixture
def ask(joined):
    def ask(method, path, body=None, settings=None, **headers):
        app = ingress(joined, settings or ServeSettings())

        async def asked():
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.request(method, path, json=body, headers=headers)

        return asyncio.run(asked())

    return ask


def completion(model="fake-1b", **fields):
    return {"model": model, "prompt": "a", **fields}


def error(response, status):
    assert response.status_code == status, response.text
    return response.json()["error"]


def test_a_cartridge_is_loaded_once(ask, joined):
    first = ask("POST", URL, completion("fake-1b:french"))
    assert first.status_code == 200, first.text
    assert first.json()["cartridges"][0]["id"] == "french"
    assert first.headers["x-llamacart-cartridges"] == "loaded"
    assert first.headers["x-llamacart-replica"] == "one"
    again = ask("POST", URL, completion("fake-1b:french@0.5"))
    assert again.headers["x-llamacart-cartridges"] == "resident"
    base = ask("POST", URL, completion())
    assert "x-llamacart-cartridges" not in base.headers
    assert joined.replica._shelf.n_loads("french") == 1


def test_a_stream_passes_through(ask):
    answer = ask("POST", URL, completion("fake-1b:french", stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1]) == "hello"


def test_errors_keep_their_form(ask):
    assert error(ask("POST", URL, completion("fake-1b:dutch")), 404)["code"] == "model_not_found"
    assert "no model 'x'" in error(ask("POST", URL, completion("x")), 404)["message"]
    assert "broken.gguf" in error(ask("POST", URL, completion("fake-1b:broken")), 400)["message"]
    assert error(ask("POST", URL, completion(n=0)), 400)["param"] == "n"
    for path in ("/v1/cartridges", "/metrics", "/v1/train_jobs"):  # they are of one replica
        assert error(ask("GET", path), 404)
    small = ServeSettings(max_body_bytes=10)
    assert error(ask("POST", URL, completion(), small), 413)["code"] == "body_too_large"


def test_keys_are_asked_for_before_anything_is_loaded(ask, joined):
    keyed = ServeSettings(api_key="secret")
    assert error(ask("POST", URL, completion("fake-1b:french"), keyed), 401)
    assert joined.calls == []
    answer = ask("POST", URL, completion("fake-1b:french"), keyed, Authorization="Bearer secret")
    assert answer.status_code == 200
    assert ask("GET", "/health", settings=keyed).status_code == 200


def test_models_are_all_that_could_be_loaded(ask):
    listed = [card["id"] for card in ask("GET", "/v1/models").json()["data"]]
    assert listed == ["fake-1b", "fake-1b:broken", "fake-1b:formal", "fake-1b:french"]
    card = ask("GET", "/v1/models/fake-1b:french").json()
    assert card["cartridges"][0]["id"] == "french"


def test_the_request_keeps_its_id_and_session(ask, joined):
    headers = {"X-Request-Id": "mine", "X-Session-Id": "talk"}
    answer = ask("POST", URL, completion("fake-1b:french+formal"), **headers)
    assert answer.headers.get_list("x-request-id") == ["mine"]
    (call,) = joined.calls
    assert (call.cartridges, call.session) == (("french", "formal"), "talk")


def test_a_request_that_showed_nothing_is_tried_once_more(ask, joined):
    joined.losses = [0]
    assert ask("POST", URL, completion()).status_code == 200
    assert len(joined.calls) == 2
    joined.losses = [0, 0]
    assert "is gone" in error(ask("POST", URL, completion()), 503)["message"]


def test_a_stream_that_was_cut_says_so(ask, joined):
    joined.losses = [2]
    answer = ask("POST", URL, completion(stream=True))
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert "is gone" in json.loads(events[-1])["error"]["message"]
    assert len(joined.calls) == 1


def test_an_engine_that_failed_shows(ask, engine):
    engine.failure = OverloadedError("broken")
    assert error(ask("GET", "/health"), 503)


def test_a_client_that_leaves_frees_its_row(joined, engine, until):
    engine.hangs = True
    engine.say("hello", end=False)
    body = json.dumps(completion("fake-1b:french", stream=True)).encode()

    async def leave():
        app = ingress(joined, ServeSettings())
        begun, gone = asyncio.Event(), asyncio.Event()
        requests = [{"type": "http.request", "body": body}]

        async def receive():
            if requests:
                return requests.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.body":
                begun.set()

        scope = {"type": "http", "method": "POST", "path": URL, "query_string": b""}
        scope["headers"] = [(b"content-type", b"application/json")]
        task = asyncio.ensure_future(app(scope, receive, send))
        await begun.wait()
        task.cancel()  # as Ray does
        await asyncio.wait({task})

    asyncio.run(leave())
    (generation,) = engine.generations
    assert generation.cancelled.is_set()
    assert joined.replica._shelf._uses.total() == 0
