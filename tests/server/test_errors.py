"""Every refusal and every kind of error, in OpenAI's shape."""

import json
import re

import anyio
import httpx
import pytest

from llamacart.errors import (
    ContextOverflowError,
    EngineError,
    InputError,
    LlamacartError,
    OverloadedError,
)
from llamacart_server.app import create_app
from llamacart_server.engine.request import TokenEvent
from llamacart_server.settings import ServeSettings

BODIES = {
    "/v1/completions": {"model": "demo", "prompt": "a"},
    "/v1/chat/completions": {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]},
}
COMPLETIONS, CHAT = BODIES


def failure(response, status):
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def refuse(client, path, param, **fields):
    error = failure(client.post(path, json={**BODIES[path], **fields}), 400)
    assert error["param"] == param, error
    assert param in error["message"]
    assert error["type"] == "invalid_request_error"
    return error["message"]


CALLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
BOTH = [
    ("grammar", "root ::= x"),
    ("guided_regex", "a+"),
    ("guided_choice", ["a"]),
    ("guided_grammar", "x"),
    ("lora", [{"id": 0, "scale": 1}]),
]
COMPLETION_ONLY = [("suffix", "x")]
CHAT_ONLY = [
    ("functions", [{"name": "f"}]),
    ("function_call", "auto"),
    ("modalities", ["text", "audio"]),
    ("audio", {"voice": "alloy"}),
    ("web_search_options", {}),
    ("chat_template", "{{ 1 }}"),
    ("chat_template_kwargs", {"a": 1}),
    ("add_generation_prompt", False),
    ("continue_final_message", True),
]
REFUSED = [
    *((path, *case) for path in BODIES for case in BOTH),
    *((COMPLETIONS, *case) for case in COMPLETION_ONLY),
    *((CHAT, *case) for case in CHAT_ONLY),
]
HARMLESS = [
    (COMPLETIONS, {"n": 1, "best_of": 1, "echo": False, "suffix": "", "lora": []}),
    (CHAT, {"n": 1, "logprobs": False, "top_logprobs": 0, "tools": [], "tool_choice": "none"}),
    (CHAT, {"response_format": {"type": "text"}, "modalities": ["text"], "functions": []}),
]


@pytest.mark.parametrize(("path", "field", "value"), REFUSED)
def test_what_is_not_supported_is_refused(client, engine, path, field, value):
    assert "is not supported" in refuse(client, path, field, **{field: value})
    assert not engine.requests


@pytest.mark.parametrize(("path", "fields"), HARMLESS)
def test_values_that_ask_for_nothing_pass(client, path, fields):
    assert client.post(path, json={**BODIES[path], **fields}).status_code == 200


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("model", {"model": None}),
        ("model", {"model": 3}),
        ("max_tokens", {"max_tokens": 0}),
        ("max_tokens", {"max_tokens": "many"}),
        ("max_tokens", {"max_tokens": "16"}),
        ("max_tokens", {"max_tokens": True}),
        ("n", {"n": 0}),
        ("n", {"n": True}),
        ("n", {"n": 5}),
        ("n", {"n": 10**30}),
        ("temperature", {"temperature": -0.1}),
        ("temperature", {"temperature": [1]}),
        ("temperature", {"temperature": "0.5"}),
        ("temperature", {"temperature": False}),
        ("top_p", {"top_p": 1.1}),
        ("top_k", {"top_k": -2}),
        ("min_p", {"min_p": 2}),
        ("presence_penalty", {"presence_penalty": 3}),
        ("frequency_penalty", {"frequency_penalty": -3}),
        ("seed", {"seed": 1.5}),
        ("stop", {"stop": 5}),
        ("stop", {"stop": ""}),
        ("stop", {"stop": ["a"] * 17}),
        ("stop[1]", {"stop": ["a", ""]}),
        ("stop[1]", {"stop": ["a", 5]}),
        ("stream", {"stream": "perhaps"}),
        ("stream", {"stream": "true"}),
        ("stream", {"stream": 1}),
        ("alpha", {"cartridge": "french", "alpha": "0.5"}),
        ("stream_options", {"stream_options": 1}),
        ("stream_options.include_usage", {"stream_options": {"include_usage": "x"}}),
        ("logit_bias", {"logit_bias": {"266": 1}}),
        ("logit_bias.7", {"logit_bias": {"7": 101}}),
        ("logit_bias.x", {"logit_bias": {"x": 1}}),
        ("user", {"user": 5}),
        ("cartridges", {"cartridges": "french"}),
        ("cartridges[0].id", {"cartridges": [{}]}),
        ("cartridges[1].alpha", {"cartridges": [{"id": "french"}, {"id": "x", "alpha": "much"}]}),
        ("cartridges[0].apply_to", {"cartridges": [{"id": "french", "apply_to": "some"}]}),
        ("alpha", {"alpha": 0.5}),
        ("alpha", {"cartridge": "french", "alpha": "x"}),
        ("cartridge", {"cartridge": {"id": "french"}}),
    ],
)
def test_a_bad_value_names_its_field(client, path, param, fields):
    refuse(client, path, param, **fields)


@pytest.mark.parametrize(
    ("param", "prompt"),
    [
        ("prompt", None),
        ("prompt", []),
        ("prompt", 5),
        ("prompt", {}),
        ("prompt", [[]]),
        ("prompt", ["a"] * 5),
        ("prompt", [266]),
        ("prompt[0]", [-1]),
        ("prompt[0]", [2**31]),
        ("prompt[0]", [True]),
        ("prompt[0][1]", [[1, "a"]]),
        ("prompt[0]", [1.5]),
    ],
)
def test_bad_prompts(client, param, prompt):
    refuse(client, COMPLETIONS, param, prompt=prompt)


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("best_of", {"best_of": 2}),
        ("best_of", {"best_of": 2, "n": 1}),
        ("best_of", {"best_of": 0}),
        ("n", {"prompt": ["a", "b"], "n": 3}),
    ],
)
def test_bad_values_of_completions(client, param, fields):
    refuse(client, COMPLETIONS, param, **fields)


@pytest.mark.parametrize(
    ("param", "messages"),
    [
        ("messages", None),
        ("messages", []),
        ("messages", "Hi"),
        ("messages[0]", ["Hi"]),
        ("messages[0].role", [{"content": "x"}]),
        ("messages[0].role", [{"role": "function", "content": "x"}]),
        ("messages[0].content", [{"role": "tool"}]),
        ("messages[0].content", [{"role": "assistant", "tool_calls": []}]),
        ("messages[0].tool_calls", [{"role": "user", "content": "", "tool_calls": CALLS}]),
        ("messages[0].content", [{"role": "user"}]),
        ("messages[0].content", [{"role": "user", "content": None}]),
        (
            "messages[0].tool_calls[0].function",
            [{"role": "assistant", "content": "", "tool_calls": [{}]}],
        ),
        (
            "messages[1].content[0].type",
            [
                {"role": "user", "content": "x"},
                {"role": "user", "content": [{"type": "image_url", "image_url": {}, "text": ""}]},
            ],
        ),
    ],
)
def test_bad_messages(client, param, messages):
    refuse(client, CHAT, param, messages=messages)


def test_a_missing_field(client):
    error = failure(client.post(COMPLETIONS, json={"model": "demo"}), 400)
    assert (error["param"], error["message"]) == ("prompt", "'prompt': field required")


def test_reasons_of_all_types_are_told(client):
    message = refuse(client, COMPLETIONS, "stop", stop=5)
    assert message == ("'stop': input should be a valid string, or input should be a valid list")


def raw(client, content, kind="application/json"):
    return client.post(COMPLETIONS, content=content, headers={"Content-Type": kind})


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none(client, literal):
    text = json.dumps({**BODIES[COMPLETIONS], "cartridge": "french", "alpha": 777})
    error = failure(raw(client, text.replace("777", literal)), 400)
    assert (error["param"], error["code"]) == ("alpha", "invalid_alpha")
    text = json.dumps({**BODIES[COMPLETIONS], "temperature": 777})
    assert failure(raw(client, text.replace("777", literal)), 400)["param"] == "temperature"


def test_lone_surrogates_are_repeated_safely(client):
    error = failure(raw(client, b'{"model": "\\ud800", "prompt": "\\udfff"}'), 404)
    assert error["param"] == "model"
    assert raw(client, b'{"model": "demo", "prompt": "\\udfff"}').status_code == 200


def test_contradictions(client):
    error = failure(
        client.post(CHAT, json={**BODIES[CHAT], "model": "demo:french", "cartridges": []}), 400
    )
    assert error["param"] == "cartridges"


@pytest.mark.parametrize("model", ["gpt-4", "demo:dutch"])
def test_unknown_models_are_404(client, model):
    error = failure(client.post(CHAT, json={**BODIES[CHAT], "model": model}), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")


def test_unknown_routes(client):
    for path in ("/page", "/page/", "/v1/nothing", "/v1/nothing/", "/docs"):
        assert failure(client.get(path), 404)["code"] == "not_found"
    response = client.get(CHAT)
    assert failure(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"


def test_a_slash_at_the_end_changes_nothing(client, engine):
    for path, route in client.get("/openapi.json").json()["paths"].items():
        if "get" in route and "403" not in route["get"]["responses"]:
            path = path.replace("{model_id}", "demo").replace("{cartridge_id}", "french")
            plain, slashed = client.get(path), client.get(f"{path}/")
            assert plain.status_code == slashed.status_code == 200, path
    for path, body in BODIES.items():
        assert client.post(f"{path}/", json=body).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "gpt%2F4",
        "%00",
        "%FF%FE",
        "%ED%A0%80",
        "%F0%9F%A6%99",
        "demo%3Afrench%20",
        "%2e%2e",
        "a%0Ab",
    ],
)
def test_a_model_id_of_odd_characters(client, name):
    for prefix in ("/v1/models", "/v1/cartridges"):
        response = client.get(f"{prefix}/{name}")
        assert response.status_code in (400, 404), response.text
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert client.get("/v1/models/demo%3Afrench%400.6").json()["id"] == "fake-1b:french@0.6"


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (OverloadedError("the queue is full"), 503, "overloaded"),
        (ContextOverflowError("too long"), 400, "context_length_exceeded"),
        (InputError("no"), 400, "invalid_value"),
        (EngineError("broken"), 500, "engine_error"),
        (RuntimeError("secret"), 500, "engine_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses(client, engine, refusal, status, code, stream):
    engine.refusals = [None, refusal]
    body = {"model": "demo", "prompt": ["a", "b"], "stream": stream}
    response = client.post(COMPLETIONS, json=body)
    error = failure(response, status)
    assert error["code"] == code
    assert "secret" not in response.text
    assert response.headers.get("retry-after") == ("1" if status == 503 else None)
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])
    assert engine.generations[0].cancelled.is_set()


@pytest.mark.parametrize("error", [OverloadedError("the engine has stopped"), ValueError("secret")])
@pytest.mark.parametrize("path", BODIES)
def test_failures_half_way(client, engine, path, error):
    engine.script = [TokenEvent(107), error]
    status, code = (
        (503, "overloaded") if isinstance(error, LlamacartError) else (500, "engine_error")
    )
    assert failure(client.post(path, json=BODIES[path]), status)["code"] == code
    text = client.post(path, json={**BODIES[path], "stream": True}).text
    *_, last, done, end = text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == code
    assert "secret" not in text


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": "a", "prompt": "b"}, "content"),
        ("/tokenize", {"content": 1}, "content"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": ["x"]}, "tokens[0]"),
        ("/detokenize", {"tokens": [999]}, "tokens"),
    ],
)
def test_token_routes(client, path, body, param):
    assert failure(client.post(path, json=body), 400)["param"] == param


def test_keys(serve, engine):
    client = serve(engine, api_key="schlüssel")
    for path in ("/health", "/ready"):
        assert client.get(path).status_code == 200
    assert client.options(CHAT).status_code == 405
    key = "schlüssel".encode()
    for headers in (
        {},
        {"Authorization": b"Bearer"},
        {"Authorization": b"Bearer x"},
        {"Authorization": b"Basic " + key},
        {"X-Api-Key": b"x"},
    ):
        response = client.get("/v1/models", headers=headers)
        assert failure(response, 401)["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["x-request-id"]
    for headers in ({"Authorization": b"bearer " + key}, {"X-Api-Key": key}):
        assert client.get("/v1/models", headers=headers).status_code == 200


def test_large_bodies(serve, engine):
    client = serve(engine, max_body_bytes=1000)
    for content in (b" " * 1001, iter([b" " * 600] * 2)):
        assert failure(raw(client, content), 413)["code"] == "body_too_large"


def test_not_ready_before_start_up(library, served, engine):
    async def probe():
        app = create_app(engine, library, served, ServeSettings())
        transport = httpx.ASGITransport(app)  # sends no lifespan events
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get("/ready"), await client.get("/health")

    ready, health = anyio.run(probe)
    assert failure(ready, 503)["code"] == "overloaded"
    assert health.status_code == 200
