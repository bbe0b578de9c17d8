"""`/health` and `/ready`, and HEAD wherever there is GET."""

import httpx
import pytest

from llamacart.errors import EngineError
from llamacart_server.app import create_app
from llamacart_server.settings import ServeSettings

GETS = ["/health", "/ready", "/metrics", "/v1/models", "/v1/models/demo", "/v1/cartridges"]


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_a_failed_engine_fails_the_probe(client, engine, path):
    assert client.get(path).status_code == 200
    engine.failure = EngineError("llama_decode failed")
    answer = client.get(path)
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "overloaded"
    assert error["message"] == "the engine has failed: llama_decode failed"
    assert client.head(path).status_code == 503


@pytest.mark.parametrize("path", GETS)
def test_head_is_get_without_a_body(client, engine, path):
    got, head = client.get(path), client.head(path)
    assert head.status_code == got.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]
    if path != "/metrics":
        assert head.headers["content-length"] == got.headers["content-length"]


def test_head_of_what_is_not_there(client):
    assert client.head("/v1/models/klingon").status_code == 404
    refused = client.head("/v1/completions")
    assert refused.status_code == 405
    assert refused.headers["allow"] == "POST"
    assert client.put("/v1/models").headers["allow"] == "GET, HEAD"


def test_head_needs_the_key_that_get_needs(serve, engine):
    client = serve(engine, api_key="secret")
    assert client.head("/health").status_code == 200
    assert client.head("/v1/models").status_code == 401
    key = {"Authorization": "Bearer secret"}
    assert client.head("/v1/models", headers=key).status_code == 200


def test_no_body_goes_out_whatever_serves_the_app(engine, library, served):
    import asyncio

    app = create_app(engine, library, served, ServeSettings())

    async def ask():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.head("/health")

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.content) == (200, b"")
