"""Keys, rate limits, CORS, time limits and keep-alives, over a real socket."""

import asyncio
import json

import httpx
import openai
import pytest

from llamacart.errors import EngineError, InputError
from llamacart_server.app import create_app
from llamacart_server.middleware.auth import KeyRing, RateLimit, read_keys
from llamacart_server.settings import ServeSettings

BODY = {"model": "demo", "prompt": "a"}
ORIGIN = {"Origin": "https://chat.example"}


def get(client, key, path="/v1/models"):
    return client.get(path, headers={"X-Api-Key": key})


# --- keys ----------------------------------------------------------------------------------------


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# for the team\n\n  first  \nsecond\n")
    return path


def test_several_keys(serve, engine, key_file):
    client = serve(engine, api_key="one, two", api_key_file=key_file)
    accepted = [get(client, key).status_code for key in ("one", "two", "first", "second")]
    assert accepted == [200] * 4
    for key in ("three", "# for the team", "one, two", "on", "onee", "", b"\xff"):
        assert get(client, key).status_code == 401
    both = {"X-Api-Key": "wrong", "Authorization": "Bearer two"}
    assert client.get("/v1/models", headers=both).status_code == 200


def test_keys_in_a_file_of_another_system(tmp_path):
    (tmp_path / "keys").write_bytes(b"\xef\xbb\xbffirst\r\nsecond\r\n")
    assert read_keys(ServeSettings(api_key_file=tmp_path / "keys")) == ("first", "second")


def test_a_ring_tells_keys_apart():
    ring = KeyRing(["a", "b", "ü"])
    found = [ring.find(key) for key in (b"a", b"b", "ü".encode(), b"c", b"")]
    assert found == [0, 1, 2, None, None]


@pytest.mark.parametrize("text", ["", "# only a comment\n"])
def test_a_file_without_keys_is_no_open_door(tmp_path, text):
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(InputError, match="holds no key"):
        read_keys(ServeSettings(api_key_file=path))


def test_a_key_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"api_key_file: .*nothing' does not exist"):
        read_keys(ServeSettings(api_key_file=tmp_path / "nothing"))
    with pytest.raises(InputError, match=r"api_key_file: .* it is a folder"):
        read_keys(ServeSettings(api_key_file=tmp_path))


# --- rate limit ----------------------------------------------------------------------------------


def test_the_rate_limit_of_a_key(serve, engine, still_clock):
    client = serve(engine, api_key="one,two", rate_limit=2)
    assert [get(client, "one").status_code for _ in range(3)] == [200, 200, 429]
    refusal = get(client, "one")
    error = refusal.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "2 requests a minute" in error["message"]
    assert refusal.headers["retry-after"] == "30"
    for path in ("/metrics", "/health", "/ready"):
        assert get(client, "one", path).status_code == 200
    assert get(client, "two").status_code == 200
    assert get(client, "wrong").status_code == 401
    with (
        openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="one", max_retries=0) as sdk,
        pytest.raises(openai.RateLimitError),
    ):
        sdk.models.list()


def test_a_bucket_fills_up_evenly():
    now = 0.0
    limit = RateLimit(60, lambda: now)
    assert [limit.take(0) for _ in range(60)] == [0.0] * 60
    assert limit.take(0) == pytest.approx(1)
    assert limit.take(1) == 0
    now = 0.5
    assert limit.take(0) == pytest.approx(0.5)
    now = 1.0
    assert limit.take(0) == 0
    assert limit.take(0) > 0
    now = 1000.0
    assert [limit.take(0) for _ in range(60)] == [0.0] * 60
    assert limit.take(0) > 0


def test_a_rate_limit_needs_keys(library, served, engine):
    with pytest.raises(InputError, match="rate_limit has value 5"):
        create_app(engine, library, served, ServeSettings(rate_limit=5))


# --- CORS ----------------------------------------------------------------------------------------


def test_cors_is_closed_unless_configured(client):
    response = client.get("/v1/models", headers=ORIGIN)
    assert not [name for name in response.headers if name.startswith("access-control")]
    preflight = {**ORIGIN, "Access-Control-Request-Method": "POST"}
    assert client.options("/v1/completions", headers=preflight).status_code == 405


def test_cors_for_one_origin(serve, engine):
    client = serve(engine, cors_origin="https://chat.example", api_key="k")
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    allowed = client.options("/v1/completions", headers={**ORIGIN, **preflight})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN["Origin"]
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    refused = client.options(
        "/v1/completions", headers={"Origin": "https://evil.example", **preflight}
    )
    assert refused.status_code == 400
    for key, status in (("k", 200), ("wrong", 401)):
        response = client.get("/v1/models", headers={**ORIGIN, "X-Api-Key": key})
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == ORIGIN["Origin"]
        assert "access-control-allow-credentials" not in response.headers
    other = client.get("/v1/models", headers={"Origin": "https://evil.example", "X-Api-Key": "k"})
    assert "access-control-allow-origin" not in other.headers


# --- time ----------------------------------------------------------------------------------------


def test_an_answer_that_takes_too_long(serve, engine):
    client = serve(engine, request_timeout=0.1)
    engine.say("so", end=False)
    engine.hangs = True
    response = client.post("/v1/completions", json=BODY)
    error = response.json()["error"]
    assert response.status_code == 504
    assert (error["type"], error["code"]) == ("timeout_error", "request_timeout")
    assert "0.1 s" in error["message"]
    assert response.headers["x-should-retry"] == "false"
    text = client.post("/v1/completions", json={**BODY, "stream": True}).text
    *_, last, done, _ = text.split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "request_timeout"
    assert done == "data: [DONE]"
    assert all(generation.cancelled.is_set() for generation in engine.generations)


def test_what_was_said_before_it_took_too_long_is_heard(engine, library, served, live):
    app = create_app(engine, library, served, ServeSettings(request_timeout=600))

    def time_is_over():
        for limit in app.state.lifecycle._answers:
            limit.reschedule(asyncio.get_running_loop().time())

    engine.say("so", end=False)
    engine.script.append(time_is_over)
    engine.hangs = True
    with live(app) as url:
        text = httpx.post(f"{url}/v1/completions", json={**BODY, "stream": True}, timeout=60).text
    *pieces, last, _, _ = (frame.removeprefix("data: ") for frame in text.split("\n\n"))
    assert [json.loads(piece)["choices"][0]["text"] for piece in pieces] == ["s", "o"]
    assert json.loads(last)["error"]["code"] == "request_timeout"
    assert engine.generations[0].cancelled.is_set()


def test_no_time_limit(serve, engine):
    client = serve(engine, request_timeout=0)
    assert client.post("/v1/completions", json=BODY).status_code == 200


def test_a_silent_stream_is_kept_alive(serve, engine):
    client = serve(engine, keep_alive=0.05)
    engine.say("so", end=False)
    silence = [0.06] * 3  # a comment comes in each, and two or three on a busy machine
    engine.script += [*silence, EngineError("it broke")]
    frames = client.post("/v1/completions", json={**BODY, "stream": True}).text.split("\n\n")
    second = next(i for i, frame in enumerate(frames) if '"o"' in frame)
    *comments, error, done, rest = frames[second + 1 :]
    assert set(comments) == {": keep-alive"}
    assert 3 <= len(comments) <= 9
    assert "it broke" in error
    assert (done, rest) == ("data: [DONE]", "")
    assert "keep-alive" not in client.post("/v1/completions", json=BODY).text


def test_keep_alives_do_not_disturb_a_client(serve, engine):
    client = serve(engine, keep_alive=0.01)
    engine.say("so", end=False)
    engine.script += [0.1, EngineError("it broke")]
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="x", max_retries=0) as sdk:
        stream = sdk.completions.create(model="demo", prompt="a", stream=True)
        seen = []
        with pytest.raises(openai.APIError, match="it broke"):
            seen.extend(chunk.choices[0].text for chunk in stream)
    assert seen == ["s", "o"]


def test_a_lively_stream_has_no_comments(serve, engine):
    client = serve(engine, keep_alive=600)
    assert "keep-alive" not in client.post("/v1/completions", json={**BODY, "stream": True}).text


def test_a_line_break_that_only_some_clients_see(client, engine):
    said = "a\u2028b\u2029c\x85d\x0be\nf"
    engine.say(said)
    with client.stream("POST", "/v1/completions", json={**BODY, "stream": True}) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    texts = [json.loads(line)["choices"][0]["text"] for line in lines[:-1]]
    assert "".join(texts) == said
