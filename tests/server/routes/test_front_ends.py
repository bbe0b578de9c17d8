"""What chat front ends send, as read from their releases, in their order.

Open WebUI 0.12.4 (and 0.6.34): its browser asks its own backend, which strips what is its own
(chat_id, session_id, features, variables, background_tasks, metadata …), merges the user's
parameters into the body, and sends the rest on with aiohttp.
"""

import json

import pytest

KEY = "sk-front"
AIOHTTP = {
    "Authorization": f"Bearer {KEY}",
    "Content-Type": "application/json",
    "Accept": "*/*",
    "Accept-Encoding": "gzip, deflate",
    "User-Agent": "Python/3.12 aiohttp/3.13.2",
    # With ENABLE_FORWARD_USER_INFO_HEADERS:
    "X-OpenWebUI-User-Name": "Ada%20L",
    "X-OpenWebUI-User-Email": "ada@example.org",
    "X-OpenWebUI-User-Role": "admin",
    "X-OpenWebUI-Chat-Id": "0f3c2c5e-8d8e-4f64-9c1e-a1c1d7a3b1aa",
}
TASK = """### Task:
Generate a concise, 3-5 word title with an emoji summarizing the chat history.
### Output:
JSON format: { "title": "your concise title here" }
### Chat History:
<chat_history>
USER: Bonjour
ASSISTANT: hello
</chat_history>"""


@pytest.fixture
def open_webui(serve, engine):
    """A client that sends Open WebUI's headers to a server that asks for a key."""
    client = serve(engine, api_key=KEY)
    client.headers.update(AIOHTTP)
    return client


def chat(model, **more):
    """A chat body as the backend sends it; unset parameters are left out, or null."""
    return {
        "stream": True,
        "model": model,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Bonjour"}]},
        ],
        "temperature": 0.7,
        "top_p": 0.95,
        "seed": None,
        "stop": ["###"],
        "stream_options": {"include_usage": True},
        **more,
    }


def events(answer):
    """The events of a stream, parsed, as a reader of `data:` lines sees them."""
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, done = [x.removeprefix("data: ") for x in answer.text.split("\n\n") if x]
    assert done == "[DONE]"
    return [json.loads(chunk) for chunk in chunks]


def text_of(chunks):
    return "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])


def test_models_chat_switch_chat(open_webui, engine):
    cards = open_webui.get("/v1/models").json()
    assert cards["object"] == "list"
    ids = [card["id"] for card in cards["data"]]
    assert {"fake-1b", "fake-1b:french"} <= set(ids)
    assert all({"object", "created", "owned_by"} <= card.keys() for card in cards["data"])

    plain = events(open_webui.post("/v1/chat/completions", json=chat("fake-1b")))
    steered = events(open_webui.post("/v1/chat/completions", json=chat("fake-1b:french@0.6")))
    assert text_of(plain) == text_of(steered) == "hello"
    assert [c["cartridges"] for c in plain[:1]] == [[]]
    (acting,) = steered[0]["cartridges"]
    assert (acting["id"], acting["alpha"]) == ("french", 0.6)
    assert steered[0]["model"] == "fake-1b:french@0.6"
    for chunks in (plain, steered):
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        reasons = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]]
        assert [r for r in reasons if r] == ["stop"]
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["total_tokens"] > 0
    first, second = engine.requests
    assert first.prompt == second.prompt
    assert (first.doses, second.doses[0].dose.alpha) == ((), 0.6)
    assert (first.sampling.temperature, first.sampling.top_p) == (0.7, 0.95)


def test_tasks_in_the_background(open_webui, engine):
    """Titles, tags and follow-ups: not streamed, and a limit only in some releases."""
    for more in ({}, {"max_tokens": 1000}):
        body = {
            "model": "fake-1b:french",
            "messages": [{"role": "user", "content": TASK}],
            "stream": False,
            **more,
        }
        answer = open_webui.post("/v1/chat/completions", json=body)
        assert answer.json()["choices"][0]["message"]["content"] == "hello"
    assert [request.max_tokens for request in engine.requests] == [512, 1000]


def test_the_fields_that_a_direct_connection_leaves_in(open_webui):
    """Where the browser talks to the server itself, and where a filter adds what it likes."""
    own = {
        "params": {},
        "features": {"web_search": False, "voice": False},
        "variables": {"{{USER_NAME}}": "Ada"},
        "session_id": "Zx1",
        "chat_id": "0f3c2c5e",
        "id": "9b1d",
        "parent_id": None,
        "user_message": {"id": "1", "role": "user", "content": "Bonjour"},
        "model_item": {"id": "fake-1b", "owned_by": "llamacart", "urlIdx": 0},
        "background_tasks": {"title_generation": True, "follow_up_generation": True},
        "filter_ids": [],
        "tool_servers": [],
        "metadata": {"task": "title_generation"},
    }
    assert text_of(events(open_webui.post("/v1/chat/completions", json=chat("demo", **own))))


def test_a_wrong_key_and_a_model_that_is_gone(open_webui):
    """Open WebUI shows `error.message` of both."""
    refused = open_webui.get("/v1/models", headers={"Authorization": "Bearer wrong"})
    assert refused.status_code == 401
    assert "API key" in refused.json()["error"]["message"]
    gone = open_webui.post("/v1/chat/completions", json=chat("fake-1b:german"))
    assert gone.status_code == 404
    assert "german" in gone.json()["error"]["message"]
