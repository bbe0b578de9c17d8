"""Formats and calls, whole and streamed: what is written tells one story."""

import httpx
import pytest

from llamacart.errors import EngineError, OverloadedError
from llamacart_server.engine.request import TokenEvent

PATH, CHAT = "/v1/responses", "/v1/chat/completions"


# --- formats and tools ----------------------------------------------------------------------------


def test_formats_are_those_of_a_chat(client, engine, asked):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    pairs = [
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "n", "schema": schema},
            {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        ),
    ]
    for ours, chats in pairs:
        engine.requests.clear()
        asked.whole(client, text={"format": ours})
        body = {
            "model": "demo",
            "messages": [{"role": "user", "content": "Hi"}],
            "response_format": chats,
        }
        client.post(CHAT, json=body)
        first, second = engine.requests
        assert first.sampling.grammar is not None
        assert first == second


@pytest.mark.parametrize(
    "choice", [None, "auto", "none", "required", {"type": "function", "name": "now"}]
)
def test_tools_are_those_of_a_chat(client, engine, choice, asked):
    asked.whole(
        client, tools=[asked.WEATHER, asked.NOW], tool_choice=choice, parallel_tool_calls=True
    )
    tools = [
        {"type": "function", "function": {"name": "weather", "parameters": asked.PARAMETERS}},
        {"type": "function", "function": {"name": "now"}},
    ]
    if isinstance(choice, dict):
        choice = {"type": "function", "function": {"name": "now"}}
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "tools": tools}
    client.post(CHAT, json={**body, "tool_choice": choice, "parallel_tool_calls": True})
    first, second = engine.requests
    assert first == second
    assert (first.sampling.grammar is None) == (choice == "none")


@pytest.mark.parametrize(
    "case",
    [
        lambda a: (a.CALL, False, "completed", [a.WEATHER_CALL]),
        lambda a: (f"\n {a.CALL}", False, "completed", [a.WEATHER_CALL]),
        lambda a: (
            f"Let me see.\n{a.CALL}\n{a.NOW_CALL}",
            False,
            "completed",
            [("completed", "Let me see.\n"), a.WEATHER_CALL, ("completed", "now", "{}")],
        ),
        lambda a: ("hello", False, "completed", [("completed", "hello")]),
        lambda a: ("  ", False, "completed", [("completed", "  ")]),
        lambda a: ("a <tool", False, "completed", [("completed", "a <tool")]),
        lambda a: ("a <tool", True, "incomplete", [("incomplete", "a <tool")]),
        lambda a: (a.CALL[:-22], True, "incomplete", [("incomplete", "weather", a.ARGUMENTS[:-8])]),
        lambda a: (a.CALL[:-3], True, "incomplete", [a.WEATHER_CALL]),
        lambda a: (f"{a.CALL}\n{a.NOW_CALL[:20]}", True, "incomplete", [a.WEATHER_CALL]),
        lambda a: (a.CALL[:20], True, "incomplete", [("incomplete", "")]),
    ],
)
def test_calls_whole_and_streamed(client, engine, case, asked):
    said, limit, status, items = case(asked)
    engine.say(said, limit=limit)
    body = asked.whole(client, tools=[asked.WEATHER, asked.NOW])
    assert (body["status"], asked.shape(body["output"])) == (status, items)
    assert all(
        item["call_id"].startswith("call_") and item["id"].startswith("fc_")
        for item in body["output"]
        if item["type"] == "function_call"
    )
    events = asked.streamed(asked.respond(client, tools=[asked.WEATHER, asked.NOW], stream=True))
    assert events[-1]["type"] == f"response.{status}"
    assert asked.stable(events[-1]["response"]) == asked.stable(body)
    asked.check_story(events)


# --- streams --------------------------------------------------------------------------------------

MESSAGE = [
    "output_item.added",
    "content_part.added",
    "output_text.delta",
    "output_text.done",
    "content_part.done",
    "output_item.done",
]


def test_a_stream(client, engine, asked):
    engine.say("héy\u2028")
    events = asked.streamed(asked.respond(client, stream=True))
    assert asked.kinds(events) == ["created", "in_progress", *MESSAGE, "completed"]
    deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert deltas == ["h", "é", "y", "\u2028"]
    asked.check_story(events)
    assert events[0]["response"]["usage"] is None
    assert asked.stable(events[-1]["response"]) == asked.stable(asked.whole(client))


def test_a_stream_of_text_and_a_call(client, engine, asked):
    engine.say(f"Well.{asked.CALL}")
    events = asked.streamed(asked.respond(client, stream=True, tools=[asked.WEATHER]))
    assert asked.kinds(events) == [
        "created",
        "in_progress",
        *MESSAGE,
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    done = next(e for e in events if e["type"] == "response.function_call_arguments.done")
    assert (done["name"], done["arguments"]) == ("weather", asked.ARGUMENTS)
    # A byte a token: nearly each of them comes by itself.
    assert sum(e["type"].endswith("arguments.delta") for e in events) > len(asked.ARGUMENTS) - 2


def test_a_call_ends_before_the_answer_does(client, engine, asked):
    engine.say(asked.CALL[:-8], end=False)  # all arguments, then silence
    engine.hangs = True
    body = {"model": "demo", "input": "Hi", "tools": [asked.WEATHER], "stream": True}
    with client.stream("POST", PATH, json=body) as stream:
        assert any(line == "event: response.output_item.done" for line in stream.iter_lines())
    assert engine.generations[0].cancelled.wait(60)


def test_the_first_events_come_before_any_token(client, engine):
    engine.say("", end=False)
    engine.hangs = True
    with client.stream("POST", PATH, json={"model": "demo", "input": "", "stream": True}) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: response.created"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (EngineError("it broke"), "engine_error", "it broke"),
        (OverloadedError("the server is stopping"), "overloaded", "the server is stopping"),
        (ZeroDivisionError("secret"), "engine_error", "internal error; the server's log says more"),
    ],
)
def test_a_failure_midway(client, engine, error, code, said, asked):
    engine.script = [TokenEvent(107), error]
    events = asked.streamed(asked.respond(client, stream=True))
    assert asked.kinds(events) == ["created", "in_progress", *MESSAGE, "failed", "error"]
    *told, failed, last = events
    asked.check_story([*told, failed])
    response = failed["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": said}
    assert response["output"][0]["status"] == "incomplete"
    assert (last["code"], last["message"], last["param"]) == (code, said, None)
    assert last["error"] == {"code": code, "message": said, "param": None, "type": "server_error"}
    status = client.post(PATH, json={"model": "demo", "input": "Hi"}).status_code
    assert status == (503 if code == "overloaded" else 500)


def test_an_answer_that_takes_too_long_fails(serve, engine, asked):
    engine.say("a", end=False)
    engine.hangs = True
    client = serve(engine, request_timeout=0.2)
    *_, failed, last = asked.streamed(asked.respond(client, stream=True))
    assert failed["response"]["status"] == "failed"
    assert (last["type"], last["code"]) == ("error", "request_timeout")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_generation(client, engine, impatient, stream):
    engine.say("some text", end=False)
    engine.hangs = True
    with pytest.raises(httpx.ReadTimeout):
        impatient(client, engine).post(
            PATH, json={"model": "demo", "input": "Hi", "stream": stream}
        )
    assert engine.generations[0].cancelled.wait(60)


def test_keep_alive_comments_come_between_events(serve, engine):
    engine.say("some text", end=False)
    engine.hangs = True
    client = serve(engine, keep_alive=0.05)
    body = {"model": "demo", "input": "Hi", "stream": True}
    with client.stream("POST", PATH, json=body) as stream:
        read = ""
        for text in stream.iter_text():
            read += text
            if ": keep-alive" in read:
                break
    *frames, rest = read.split("\n\n")
    assert rest == ""
    assert ": keep-alive" in frames
    assert all(f == ": keep-alive" or f.startswith("event: response.") for f in frames)
