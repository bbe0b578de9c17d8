"""`"telemetry": "tokens"`: how strong the steering was at each token, on every route."""

import json
import math

import httpx
import pytest

from llamacart_server.engine.request import GenerationReport, TokenEvent

ROUTES = {
    "/v1/completions": {"prompt": "a"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
    "/v1/responses": {"input": "a"},
}
FIRST_BYTE = 10


def say(engine, text, *, finish="stop"):
    """Answer with `text`, a byte a token; the token at place i has dose i at layer 1."""
    raw = text.encode()
    engine.script = [
        TokenEvent(FIRST_BYTE + byte, doses=(math.nan, float(i), i + 1.0))
        for i, byte in enumerate(raw)
    ]
    engine.script.append(TokenEvent(None, finish))


def ask(client, path="/v1/completions", **fields):
    body = {"model": "fake-1b", "telemetry": "tokens", **ROUTES[path], **fields}
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response


def chunks(response):
    frames = (line[6:] for line in response.text.splitlines() if line.startswith("data: {"))
    return [json.loads(frame) for frame in frames]


def token(i, text, start, byte=None):
    return {
        "id": FIRST_BYTE + (ord(text) if byte is None else byte),
        "token": text,
        "start": start,
        "dose": i + 0.5,
        "layers": {"1": i, "2": i + 1},
    }


def test_the_engine_is_asked_only_where_a_client_asks(client, engine):
    for telemetry, expected in (
        (None, (0, 0)),
        (False, (0, 0)),
        (True, (1, 0)),
        ("tokens", (1, 1)),
    ):
        ask(client, telemetry=telemetry)
        request = engine.requests[-1]
        assert (request.telemetry, request.token_doses) == expected


def test_whole_answers(client, engine):
    engine.report = GenerationReport(0, (math.nan, 0.5), 2)
    say(engine, "hi")
    expected = {
        "dose": {"1": 0.5},
        "capped_rows": 2,
        "tokens": [token(0, "h", 0), token(1, "i", 1)],
    }
    assert ask(client).json()["choices"][0]["telemetry"] == expected
    chat = ask(client, "/v1/chat/completions").json()
    assert chat["choices"][0]["telemetry"] == expected
    assert ask(client, "/v1/responses").json()["telemetry"] == expected


def test_nobody_else_gets_them(client, engine):
    engine.report = GenerationReport(0, (math.nan, 0.5), 2)
    say(engine, "hi")
    for path in ROUTES:
        body = ask(client, path, telemetry=True).json()
        telemetry = body["telemetry"] if "telemetry" in body else body["choices"][0]["telemetry"]
        assert telemetry.keys() == {"dose", "capped_rows"}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_streams(client, engine, path):
    engine.report = GenerationReport(0, (math.nan, 0.5), 0)
    say(engine, "hé!")
    found = [c["choices"][0].get("telemetry") for c in chunks(ask(client, path, stream=True))]
    if path.endswith("/chat/completions"):
        assert found.pop(0) is None, "the opening has no token"
    accent = [token(i, f"bytes:\\x{byte:02x}", 1, byte) for i, byte in ((1, 0xC3), (2, 0xA9))]
    assert found == [
        {"tokens": [token(0, "h", 0)]},
        {"tokens": accent},
        {"tokens": [token(3, "!", 2)]},
        {"dose": {"1": 0.5}, "capped_rows": 0},
    ]


def test_the_last_event_of_a_response_has_them(client, engine):
    say(engine, "hi")
    *_, last = chunks(ask(client, "/v1/responses", stream=True))
    assert last["response"]["telemetry"] == {"tokens": [token(0, "h", 0), token(1, "i", 1)]}


def test_tokens_of_a_stop_string_are_left_out(client, engine):
    say(engine, "one END two")
    for stream in (False, True):
        response = ask(client, stop=" END", stream=stream)
        parts = chunks(response) if stream else [response.json()]
        telemetry = [part["choices"][0].get("telemetry") or {} for part in parts]
        tokens = [one for part in telemetry for one in part.get("tokens", ())]
        assert [one["token"] for one in tokens] == ["o", "n", "e"]


def test_a_token_that_nothing_acted_on(client, engine):
    engine.script = [TokenEvent(FIRST_BYTE + 65, "length")]
    (choice,) = ask(client).json()["choices"]
    bare = {"id": FIRST_BYTE + 65, "token": "A", "start": 0, "dose": None, "layers": {}}
    assert choice["telemetry"] == {"tokens": [bare]}


def test_a_step_from_nothing_is_no_number(client, engine):
    """Its size is infinite, which JSON cannot say."""
    engine.report = GenerationReport(0, (math.inf, 0.5))
    engine.script = [TokenEvent(FIRST_BYTE + 65, "length", doses=(math.inf, 0.25))]
    (choice,) = ask(client).json()["choices"]
    assert choice["telemetry"]["dose"] == {"1": 0.5}
    assert choice["telemetry"]["tokens"][0]["layers"] == {"1": 0.25}


def test_another_word_is_refused(client: httpx.Client):
    body = {"model": "fake-1b", "prompt": "a", "telemetry": "layers"}
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "telemetry"
    assert "'tokens'" in error["message"]
