"""`POST /v1/responses`: bodies, whole and streamed answers, and OpenAI's own client on them."""

import asyncio
import json
import re
import time
from dataclasses import replace

import httpx
import openai
import pytest
from openai.types.responses import Response as OpenAIResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from llamacart.errors import EngineError, OverloadedError
from llamacart_server.app import create_app
from llamacart_server.engine.request import GenerationReport, TokenEvent
from llamacart_server.prompts.templates import ChatTemplate
from llamacart_server.responses.as_chat import as_chat
from llamacart_server.responses.body import ResponsesBody
from llamacart_server.settings import ServeSettings

PATH, CHAT = "/v1/responses", "/v1/chat/completions"
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}
NOW = {"type": "function", "name": "now"}
ARGUMENTS = '{"city": "a}\\"]b"}'
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
NOW_CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
EVENT = TypeAdapter(ResponseStreamEvent)


def respond(client, **fields):
    response = client.post(PATH, json={"model": "demo", "input": "Hi", **fields})
    assert response.status_code == 200, response.text
    return response


def whole(client, **fields):
    body = respond(client, **fields).json()
    OpenAIResponse.model_validate(body, strict=True)
    return body


def streamed(response):
    """The events of a stream, whose frame, numbers and types are checked."""
    assert response.headers["content-type"].startswith("text/event-stream")
    frames = response.text.split("\n\n")
    assert frames.pop() == ""
    events = []
    for number, frame in enumerate(frames):
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        EVENT.validate_python(event, strict=True)
        events.append(event)
    return events


def kinds(events):
    """Types without what comes between two of the same."""
    names = [event["type"].removeprefix("response.") for event in events]
    return [name for i, name in enumerate(names) if name != "".join(names[i - 1 : i])]


def stable(body):
    """A response without what differs between two."""
    text = re.sub(r"\b(resp|msg|fc|call)_[0-9a-f]+", r"\1", json.dumps(body))
    return {**json.loads(text), "created_at": 0, "completed_at": 0}


@pytest.fixture
def sdk(client):
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


# --- whole answers -------------------------------------------------------------------------------


def test_a_response(client, engine):
    begun = int(time.time())
    engine.report = GenerationReport(cached_tokens=3)
    body = whole(client)
    assert re.fullmatch(r"resp_[0-9a-f]{32}", body.pop("id"))
    assert begun <= body.pop("created_at") <= body.pop("completed_at") <= time.time()
    (message,) = body.pop("output")
    assert re.fullmatch(r"msg_[0-9a-f]{32}", message.pop("id"))
    assert message == {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}],
    }
    n_prompt = len(engine.requests[0].prompt)
    assert body.pop("usage") == {
        "input_tokens": n_prompt,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": n_prompt + 5,
    }
    assert body == {
        "object": "response",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": "fake-1b",
        "cartridges": [],
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "parallel_tool_calls": False,
        "prompt_cache_key": None,
        "safety_identifier": None,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "user": None,
        "background": False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "top_logprobs": 0,
        "truncation": "disabled",
    }


def test_the_answer_repeats_what_was_asked(client):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    given = {
        "instructions": "Be brief.",
        "max_output_tokens": 7,
        "max_tool_calls": 3,
        "metadata": {"k": "v"},
        "prompt_cache_key": "p",
        "safety_identifier": "s",
        "temperature": 0.5,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}},
        "top_p": 0.9,
        "user": "u",
    }
    body = whole(client, **given)
    body["text"]["format"].pop("description")
    assert {name: body[name] for name in given} == given
    choice = {"type": "function", "name": "now"}
    body = whole(client, tools=[WEATHER, NOW], tool_choice=choice, parallel_tool_calls=True)
    assert body["tool_choice"] == choice
    assert body["parallel_tool_calls"] is True
    assert body["tools"][0] == WEATHER | {"description": None}


def test_nothing_is_stored_though_clients_may_ask(client):
    for store in (True, False, None):
        assert whole(client, store=store)["store"] is False


def test_incomplete(client, engine):
    engine.say("abc", limit=True)
    body = whole(client, max_output_tokens=3)
    assert engine.requests[0].max_tokens == 3
    assert (body["status"], body["completed_at"]) == ("incomplete", None)
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    (message,) = body["output"]
    assert (message["status"], message["content"][0]["text"]) == ("incomplete", "abc")


def test_an_empty_answer_is_an_empty_message(client, engine):
    engine.script = [TokenEvent(None, "stop")]
    (message,) = whole(client)["output"]
    assert (message["status"], message["content"][0]["text"]) == ("completed", "")


def test_cartridges_act_and_are_told(client, engine, library):
    french = {
        "id": "french",
        "alpha": 0.5,
        "hash": library.get("french").content_hash,
        "apply_to": "all",
    }
    for fields in (
        {"model": "demo:french@0.5"},
        {"cartridge": "french", "alpha": 0.5},
        {"cartridges": [{"id": "french", "alpha": 0.5}]},
    ):
        body = whole(client, **fields)
        assert (body["model"], body["cartridges"]) == ("fake-1b:french@0.5", [french])
        (placed,) = engine.requests[-1].doses
        assert placed.dose.alpha == 0.5
        events = streamed(respond(client, **fields, stream=True))
        assert events[0]["response"]["cartridges"] == [french]


def test_telemetry(client, engine):
    engine.report = GenerationReport(capped_rows=2)
    assert whole(client)["telemetry"] == {"dose": {}, "capped_rows": 2}


def test_extension_fields_reach_the_engine(client, engine):
    given = {"top_k": 40, "min_p": 0.05, "seed": 7, "presence_penalty": 1, "frequency_penalty": -1}
    whole(client, **given, ignore_eos=True, logit_bias={"5": -100}, telemetry=True, stop="l")
    (request,) = engine.requests
    assert {name: getattr(request.sampling, name) for name in given} == given
    assert request.sampling.logit_bias == ((5, -100.0),)
    assert request.ignore_eos
    assert request.telemetry


def test_stop_strings(client, engine):
    engine.say("one END two")
    body = whole(client, stop="END")
    assert (body["status"], body["output"][0]["content"][0]["text"]) == ("completed", "one ")


# --- input ---------------------------------------------------------------------------------------


def message(role, text):
    return {"role": role, "content": text}


CALLED = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
CALLED_TOO = {"type": "function_call", "call_id": "c2", "name": "now", "arguments": "{}"}
GAVE = {"type": "function_call_output", "call_id": "c1", "output": "Rain."}


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({"input": "Hi"}, [message("user", "Hi")]),
        ({"input": ""}, [message("user", "")]),
        (
            {"instructions": "Be brief.", "input": "Hi"},
            [message("system", "Be brief."), message("user", "Hi")],
        ),
        (
            {
                "instructions": "A",
                "input": [message("developer", "B"), message("system", "C"), message("user", "D")],
            },
            [message("system", "A\nB\nC"), message("user", "D")],
        ),
        (
            {
                "input": [
                    {"type": "message", **message("user", [{"type": "input_text", "text": "a"}])},
                    {
                        "id": "msg_1",
                        "type": "message",
                        "status": "completed",
                        "role": "assistant",
                        "content": [
                            {"type": "output_text", "text": "b", "annotations": []},
                            {"type": "output_text", "text": "c", "annotations": []},
                        ],
                    },
                    message("developer", "d"),
                ]
            },
            [message("user", "a"), message("assistant", "b\nc"), message("developer", "d")],
        ),
    ],
)
def test_input_becomes_the_prompt_of_a_chat(client, engine, fields, messages):
    whole(client, **fields)
    client.post(CHAT, json={"model": "demo", "messages": messages})
    ours, chats = engine.requests
    assert ours.prompt == chats.prompt


def test_calls_become_turns_of_the_assistant():
    items = [
        message("user", "a"),
        message("assistant", "Let me see."),
        CALLED,
        CALLED_TOO,
        GAVE,
        {"type": "function_call_output", "output": [{"type": "input_text", "text": "Noon."}]},
        CALLED,
        message("assistant", "b"),
        CALLED_TOO,
    ]
    chat = as_chat(ResponsesBody.model_validate({"model": "demo", "input": items}))
    said = [
        (m.role, m.content, [call.id for call in m.tool_calls or ()], m.tool_call_id)
        for m in chat.messages
    ]
    assert said == [
        ("user", "a", [], None),
        ("assistant", "Let me see.", ["c1", "c2"], None),
        ("tool", "Rain.", [], "c1"),
        ("tool", "Noon.", [], None),
        ("assistant", None, ["c1"], None),
        ("assistant", "b", ["c2"], None),
    ]
    assert chat.messages[1].tool_calls[0].function.name == "weather"


def test_an_output_can_be_sent_back(client, engine):
    engine.say(f"Let me see.\n{CALL}")
    output = whole(client, tools=[WEATHER])["output"]
    assert [item["type"] for item in output] == ["message", "function_call"]
    gave = {"type": "function_call_output", "call_id": output[1]["call_id"], "output": "Rain."}
    engine.say("It rains.")
    body = whole(client, input=[message("user", "Weather?"), *output, gave], tools=[WEATHER])
    assert body["output"][0]["content"][0]["text"] == "It rains."


def test_nulls_and_harmless_fields_are_tolerated(client, engine):
    names = set(ResponsesBody.model_fields) - {"model", "input"}
    whole(client, **dict.fromkeys(names), frobnicate=None, service_tier="auto")
    whole(client)
    assert engine.requests[0] == engine.requests[1]


def test_values_that_ask_for_nothing_pass(client, engine):
    whole(
        client,
        background=False,
        compare=False,
        include=["reasoning.encrypted_content"],
        n=1,
        reasoning={"effort": "none"},
        store=True,
        stream_options={"include_obfuscation": False},
        text={"format": {"type": "text"}, "verbosity": "medium"},
        tool_choice="auto",
        tools=[],
        top_logprobs=0,
        truncation="disabled",
    )
    whole(client)
    assert engine.requests[0] == engine.requests[1]


# --- formats and tools ---------------------------------------------------------------------------


def test_formats_are_those_of_a_chat(client, engine):
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
        whole(client, text={"format": ours})
        body = {"model": "demo", "messages": [message("user", "Hi")], "response_format": chats}
        client.post(CHAT, json=body)
        first, second = engine.requests
        assert first.sampling.grammar is not None
        assert first == second


@pytest.mark.parametrize(
    "choice", [None, "auto", "none", "required", {"type": "function", "name": "now"}]
)
def test_tools_are_those_of_a_chat(client, engine, choice):
    whole(client, tools=[WEATHER, NOW], tool_choice=choice, parallel_tool_calls=True)
    tools = [
        {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}},
        {"type": "function", "function": {"name": "now"}},
    ]
    if isinstance(choice, dict):
        choice = {"type": "function", "function": {"name": "now"}}
    body = {"model": "demo", "messages": [message("user", "Hi")], "tools": tools}
    client.post(CHAT, json={**body, "tool_choice": choice, "parallel_tool_calls": True})
    first, second = engine.requests
    assert first == second
    assert (first.sampling.grammar is None) == (choice == "none")


def shape(output):
    return [
        (item["status"], item["name"], item["arguments"])
        if item["type"] == "function_call"
        else (item["status"], item["content"][0]["text"])
        for item in output
    ]


WEATHER_CALL = ("completed", "weather", ARGUMENTS)


@pytest.mark.parametrize(
    ("said", "limit", "status", "items"),
    [
        (CALL, False, "completed", [WEATHER_CALL]),
        (f"\n {CALL}", False, "completed", [WEATHER_CALL]),
        (
            f"Let me see.\n{CALL}\n{NOW_CALL}",
            False,
            "completed",
            [("completed", "Let me see.\n"), WEATHER_CALL, ("completed", "now", "{}")],
        ),
        ("hello", False, "completed", [("completed", "hello")]),
        ("  ", False, "completed", [("completed", "  ")]),
        ("a <tool", False, "completed", [("completed", "a <tool")]),
        ("a <tool", True, "incomplete", [("incomplete", "a <tool")]),
        (CALL[:-22], True, "incomplete", [("incomplete", "weather", ARGUMENTS[:-8])]),
        (CALL[:-3], True, "incomplete", [WEATHER_CALL]),
        (f"{CALL}\n{NOW_CALL[:20]}", True, "incomplete", [WEATHER_CALL]),
        (CALL[:20], True, "incomplete", [("incomplete", "")]),
    ],
)
def test_calls_whole_and_streamed(client, engine, said, limit, status, items):
    engine.say(said, limit=limit)
    body = whole(client, tools=[WEATHER, NOW])
    assert (body["status"], shape(body["output"])) == (status, items)
    assert all(
        item["call_id"].startswith("call_") and item["id"].startswith("fc_")
        for item in body["output"]
        if item["type"] == "function_call"
    )
    events = streamed(respond(client, tools=[WEATHER, NOW], stream=True))
    assert events[-1]["type"] == f"response.{status}"
    assert stable(events[-1]["response"]) == stable(body)
    check_story(events)


def check_story(events):
    """Every item begins once, grows by its deltas to what it is said to be, and ends once."""
    first, second, *rest, last = events
    assert (first["type"], second["type"]) == ("response.created", "response.in_progress")
    for event in (first, second):
        assert (event["response"]["status"], event["response"]["output"]) == ("in_progress", [])
    ended = []
    for event in rest:
        kind = event["type"].removeprefix("response.")
        assert event["output_index"] == len(ended)
        if kind == "output_item.added":
            begun, grown = event["item"], ""
            assert begun["status"] == "in_progress"
            assert begun.get("content", []) == []
            assert begun.get("arguments", "") == ""
            continue
        if kind == "output_item.done":
            assert event["item"]["id"] == begun["id"]
            assert shape([event["item"]])[0][-1] == grown
            ended.append(event["item"])
            continue
        assert event["item_id"] == begun["id"]
        if kind.endswith(".delta"):
            assert event["delta"]
            grown += event["delta"]
        elif kind == "function_call_arguments.done":
            assert event["arguments"] == grown
        elif kind == "output_text.done":
            assert event["text"] == grown
        else:
            assert kind in ("content_part.added", "content_part.done")
            assert event["part"]["text"] == grown
    assert last["response"]["output"] == ended


# --- streams -------------------------------------------------------------------------------------

MESSAGE = [
    "output_item.added",
    "content_part.added",
    "output_text.delta",
    "output_text.done",
    "content_part.done",
    "output_item.done",
]


def test_a_stream(client, engine):
    engine.say("héy\u2028")
    events = streamed(respond(client, stream=True))
    assert kinds(events) == ["created", "in_progress", *MESSAGE, "completed"]
    deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert deltas == ["h", "é", "y", "\u2028"]
    check_story(events)
    assert events[0]["response"]["usage"] is None
    assert stable(events[-1]["response"]) == stable(whole(client))


def test_a_stream_of_text_and_a_call(client, engine):
    engine.say(f"Well.{CALL}")
    events = streamed(respond(client, stream=True, tools=[WEATHER]))
    assert kinds(events) == [
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
    assert (done["name"], done["arguments"]) == ("weather", ARGUMENTS)
    # A byte a token: nearly each of them comes by itself.
    assert sum(e["type"].endswith("arguments.delta") for e in events) > len(ARGUMENTS) - 2


def test_a_call_ends_before_the_answer_does(client, engine):
    engine.say(CALL[:-8], end=False)  # all arguments, then silence
    engine.hangs = True
    body = {"model": "demo", "input": "Hi", "tools": [WEATHER], "stream": True}
    with client.stream("POST", PATH, json=body) as stream:
        assert any(line == "event: response.output_item.done" for line in stream.iter_lines())
    assert engine.generations[0].cancelled.wait(5)


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
def test_a_failure_midway(client, engine, error, code, said):
    engine.script = [TokenEvent(107), error]
    events = streamed(respond(client, stream=True))
    assert kinds(events) == ["created", "in_progress", *MESSAGE, "failed", "error"]
    *told, failed, last = events
    check_story([*told, failed])
    response = failed["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": said}
    assert response["output"][0]["status"] == "incomplete"
    assert (last["code"], last["message"], last["param"]) == (code, said, None)
    assert last["error"] == {"code": code, "message": said, "param": None, "type": "server_error"}
    status = client.post(PATH, json={"model": "demo", "input": "Hi"}).status_code
    assert status == (503 if code == "overloaded" else 500)


def test_an_answer_that_takes_too_long_fails(serve, engine):
    engine.say("a", end=False)
    engine.hangs = True
    client = serve(engine, request_timeout=0.2)
    *_, failed, last = streamed(respond(client, stream=True))
    assert failed["response"]["status"] == "failed"
    assert (last["type"], last["code"]) == ("error", "request_timeout")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_generation(client, engine, stream):
    engine.say("some text", end=False)
    engine.hangs = True
    with (
        httpx.Client(base_url=client.base_url, timeout=0.2) as other,
        pytest.raises(httpx.ReadTimeout),
    ):
        other.post(PATH, json={"model": "demo", "input": "Hi", "stream": stream})
    assert engine.generations[0].cancelled.wait(5)


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


# --- refusals ------------------------------------------------------------------------------------

DEEP = '{"a":' * 300 + "1" + "}" * 300


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("model", {"model": None}),
        ("input", {"input": None}),
        ("input", {"input": 3}),
        ("input", {"input": []}),
        ("input[0]", {"input": ["Hi"]}),
        ("input[0]", {"input": [{"type": "item_reference", "id": "x"}]}),
        ("input[0]", {"input": [{"type": "reasoning", "summary": []}]}),
        ("input[0]", {"input": [{"type": 5}]}),
        ("input[0].content", {"input": [{"role": "user"}]}),
        ("input[1].role", {"input": [message("user", "a"), message("tool", "b")]}),
        (
            "input[0].content[0].type",
            {"input": [message("user", [{"type": "input_image", "image_url": "x"}])]},
        ),
        ("input[0].call_id", {"input": [{**CALLED, "call_id": None}]}),
        ("input[0].output", {"input": [{"type": "function_call_output", "call_id": "1"}]}),
        ("instructions", {"instructions": ["a"]}),
        ("max_output_tokens", {"max_output_tokens": 0}),
        ("temperature", {"temperature": -1}),
        ("top_p", {"top_p": 2}),
        ("text.format", {"text": {"format": {"type": "grammar"}}}),
        ("text.format.schema", {"text": {"format": {"type": "json_schema", "name": "n"}}}),
        (
            "text.format.schema",
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"not": {}}}}},
        ),
        ("text.verbosity", {"text": {"verbosity": "low"}}),
        ("tools[0].type", {"tools": [{"type": "web_search"}]}),
        ("tools[0].name", {"tools": [{"type": "function", "name": "a b"}]}),
        ("tools[1]", {"tools": [NOW, NOW]}),
        ("tools[0].parameters", {"tools": [{**NOW, "parameters": {"type": "string"}}]}),
        (
            "tools[1].parameters",
            {"tools": [NOW, {**WEATHER, "parameters": {"properties": {"a": {"type": "x"}}}}]},
        ),
        ("tools", {"tools": [NOW], "text": {"format": {"type": "json_object"}}}),
        ("tool_choice", {"tool_choice": "required"}),
        ("tool_choice", {"tools": [NOW], "tool_choice": {"type": "function", "name": "x"}}),
        ("tool_choice.type", {"tools": [NOW], "tool_choice": {"type": "web_search"}}),
        ("metadata.a", {"metadata": {"a": 1}}),
        ("metadata.a", {"metadata": {"a": "x" * 513}}),
        ("metadata", {"metadata": {str(i): "" for i in range(17)}}),
        ("truncation", {"truncation": "auto"}),
        ("store", {"store": "perhaps"}),
        ("background", {"background": True}),
        ("previous_response_id", {"previous_response_id": "resp_1"}),
        ("conversation", {"conversation": "conv_1"}),
        ("conversation", {"conversation": {"id": "conv_1"}}),
        ("prompt", {"prompt": {"id": "p"}}),
        ("include[0]", {"include": ["message.output_text.logprobs"]}),
        ("top_logprobs", {"top_logprobs": 2}),
        ("reasoning.effort", {"reasoning": {"effort": "high"}}),
        ("moderation", {"moderation": {"model": "m"}}),
        ("context_management", {"context_management": [{"type": "compaction"}]}),
        ("stream_options.include_obfuscation", {"stream_options": {"include_obfuscation": True}}),
        ("n", {"n": 2}),
        ("compare", {"compare": True}),
        ("max_tokens", {"max_tokens": 5}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("grammar", {"grammar": "root ::= x"}),
        ("cartridges[0].id", {"cartridges": [{}]}),
        ("tools[0].parameters", {"tools": [{**NOW, "parameters": json.loads(DEEP)}]}),
    ],
)
def test_refusals(client, engine, param, fields):
    response = client.post(PATH, json={"model": "demo", "input": "Hi", **fields})
    assert response.status_code == 400, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert error["param"] == param, error
    assert param in error["message"]
    assert "function." not in error["message"]
    assert not engine.requests


def test_a_field_of_another_api_is_told_its_name_here(client):
    body = {"model": "demo", "input": "Hi", "max_tokens": 5}
    error = client.post(PATH, json=body).json()["error"]
    assert error["message"] == "'max_tokens': is called 'max_output_tokens' in this API"


LONE = "\\ud800"  # as JSON writes a lone surrogate


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("instructions", f'"instructions": "{LONE}"'),
        ("user", f'"user": "{LONE}"'),
        ("metadata.k", f'"metadata": {{"k": "{LONE}"}}'),
        (
            "tools[0].parameters",
            f'"tools": [{{"type": "function", "name": "f", "parameters": {{"{LONE}": 1}}}}]',
        ),
    ],
)
def test_what_cannot_be_repeated_is_refused(client, param, fields):
    # As bytes: httpx refuses to send a lone surrogate.
    text = f'{{"model": "demo", "input": "\\udfff", {fields}}}'
    kind = {"Content-Type": "application/json"}
    response = client.post(PATH, content=text, headers=kind)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    body = '{"model": "demo", "input": "\\udfff"}'
    assert client.post(PATH, content=body, headers=kind).status_code == 200


def test_an_error_of_the_template_names_the_input(engine, library, served, live):
    picky = replace(served, template=ChatTemplate("gguf", "{{ raise_exception('no') }}"))
    app = create_app(engine, library, picky, ServeSettings())
    with live(app) as url:
        response = httpx.post(f"{url}{PATH}", json={"model": "demo", "input": "Hi"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "input"
    assert error["message"] == "the chat template (gguf) refuses the input: no"


# --- the page ------------------------------------------------------------------------------------


def test_the_page_is_true_and_its_example_runs(client):
    page = client.get("/openapi.json").json()
    operation = page["paths"][PATH]["post"]
    assert set(operation["responses"]["200"]["content"]) == {
        "application/json",
        "text/event-stream",
    }
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    body = page["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for example in body["examples"]:
        assert client.post(PATH, json=example).status_code == 200


# --- the official client -------------------------------------------------------------------------


def test_sdk(sdk, engine):
    response = sdk.responses.create(model="fake-1b:french", input="Hi", instructions="Be brief.")
    assert response.output_text == "hello"
    assert response.status == "completed"
    assert response.usage.output_tokens_details.reasoning_tokens == 0
    assert response.model_extra["cartridges"][0]["alpha"] == 0.8
    assert response._request_id
    own = sdk.responses.create(
        model="demo", input="Hi", extra_body={"cartridge": "french", "top_k": 1}
    )
    assert own.model == "fake-1b:french"
    assert engine.requests[-1].sampling.top_k == 1


def test_sdk_stream(sdk, engine):
    events = list(sdk.responses.create(model="demo", input="Hi", stream=True))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "hello"
    assert events[-1].response.output_text == "hello"
    with sdk.responses.stream(model="demo", input="Hi") as stream:
        texts = [e.snapshot for e in stream if e.type == "response.output_text.delta"]
        assert texts[-1] == "hello"
        assert stream.get_final_response().output_text == "hello"


def test_sdk_calls_and_the_turn_after(sdk, engine):
    engine.say(f"Let me see.{CALL}")
    given = {"model": "demo", "tools": [WEATHER]}
    with sdk.responses.stream(**given, input="Weather?") as stream:
        final = stream.get_final_response()
    text, call = final.output
    assert text.content[0].text == "Let me see."
    assert call.parsed_arguments == {"city": 'a}"]b'}
    engine.say("It rains.")
    answer = sdk.responses.create(
        **given,
        input=[
            {"role": "user", "content": "Weather?"},
            *final.output,
            {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."},
        ],
    )
    assert answer.output_text == "It rains."


class City(BaseModel):
    name: str
    size: int


def test_sdk_parses_a_model(sdk, engine):
    engine.say('{"name": "Bern", "size": 3}')
    response = sdk.responses.parse(model="demo", input="Hi", text_format=City)
    assert response.output_parsed == City(name="Bern", size=3)
    assert "name" in engine.requests[0].sampling.grammar.text
    with sdk.responses.stream(model="demo", input="Hi", text_format=City) as stream:
        assert stream.get_final_response().output_parsed == City(name="Bern", size=3)


def test_sdk_async(client, engine):
    async def run():
        url = f"{client.base_url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as sdk:
            whole = await sdk.responses.create(model="demo", input="Hi")
            events = await sdk.responses.create(model="demo", input="Hi", stream=True)
            deltas = [e.delta async for e in events if e.type == "response.output_text.delta"]
            async with sdk.responses.stream(model="demo", input="Hi") as stream:
                final = await stream.get_final_response()
            return whole.output_text, "".join(deltas), final.output_text

    assert asyncio.run(run()) == ("hello",) * 3


def test_sdk_errors(sdk, engine):
    with pytest.raises(openai.NotFoundError, match="no cartridge 'dutch'"):
        sdk.responses.create(model="demo:dutch", input="Hi")
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(model="demo", input="Hi", previous_response_id="resp_1")
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "invalid_value")
    engine.refusals = [OverloadedError("full")] * 2
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as refused:
            sdk.responses.create(model="demo", input="Hi", stream=stream)
        assert (refused.value.status_code, refused.value.code) == (503, "overloaded")
    engine.script = [TokenEvent(107), EngineError("it broke")]
    stream = sdk.responses.create(model="demo", input="Hi", stream=True)
    seen = []
    with pytest.raises(openai.APIError, match="it broke"):
        seen.extend(event.type for event in stream)
    with pytest.raises(openai.InternalServerError, match="it broke"):
        sdk.responses.create(model="demo", input="Hi")
