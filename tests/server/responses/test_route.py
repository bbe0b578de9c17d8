"""`POST /v1/responses`: whole answers, what becomes of the input, and refusals."""

import json
import re
import time
from dataclasses import replace

import httpx
import pytest

from llamacart.chat.templates import ChatTemplate
from llamacart_server.app import create_app
from llamacart_server.engine.request import GenerationReport, TokenEvent
from llamacart_server.responses.as_chat import as_chat
from llamacart_server.responses.body import ResponsesBody
from llamacart_server.settings import ServeSettings

PATH, CHAT = "/v1/responses", "/v1/chat/completions"
NOW = {"type": "function", "name": "now"}


# --- whole answers --------------------------------------------------------------------------------


def test_a_response(client, engine, asked):
    begun = int(time.time())
    engine.report = GenerationReport(cached_tokens=3)
    body = asked.whole(client)
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


def test_the_answer_repeats_what_was_asked(client, asked):
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
    body = asked.whole(client, **given)
    body["text"]["format"].pop("description")
    assert {name: body[name] for name in given} == given
    choice = NOW
    body = asked.whole(
        client, tools=[asked.WEATHER, asked.NOW], tool_choice=choice, parallel_tool_calls=True
    )
    assert body["tool_choice"] == choice
    assert body["parallel_tool_calls"] is True
    assert body["tools"][0] == asked.WEATHER | {"description": None}


def test_nothing_is_stored_though_clients_may_ask(client, asked):
    for store in (True, False, None):
        assert asked.whole(client, store=store)["store"] is False


def test_incomplete(client, engine, asked):
    engine.say("abc", limit=True)
    body = asked.whole(client, max_output_tokens=3)
    assert engine.requests[0].max_tokens == 3
    assert (body["status"], body["completed_at"]) == ("incomplete", None)
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    (message,) = body["output"]
    assert (message["status"], message["content"][0]["text"]) == ("incomplete", "abc")


def test_an_empty_answer_is_an_empty_message(client, engine, asked):
    engine.script = [TokenEvent(None, "stop")]
    (message,) = asked.whole(client)["output"]
    assert (message["status"], message["content"][0]["text"]) == ("completed", "")


def test_cartridges_act_and_are_told(client, engine, library, asked):
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
        body = asked.whole(client, **fields)
        assert (body["model"], body["cartridges"]) == ("fake-1b:french@0.5", [french])
        (placed,) = engine.requests[-1].doses
        assert placed.dose.alpha == 0.5
        events = asked.streamed(asked.respond(client, **fields, stream=True))
        assert events[0]["response"]["cartridges"] == [french]


def test_telemetry(client, engine, asked):
    engine.report = GenerationReport(capped_rows=2)
    assert asked.whole(client)["telemetry"] == {"dose": {}, "capped_rows": 2}


def test_extension_fields_reach_the_engine(client, engine, asked):
    given = {"top_k": 40, "min_p": 0.05, "seed": 7, "presence_penalty": 1, "frequency_penalty": -1}
    asked.whole(client, **given, ignore_eos=True, logit_bias={"5": -100}, telemetry=True, stop="l")
    (request,) = engine.requests
    assert {name: getattr(request.sampling, name) for name in given} == given
    assert request.sampling.logit_bias == ((5, -100.0),)
    assert request.ignore_eos
    assert request.telemetry


def test_stop_strings(client, engine, asked):
    engine.say("one END two")
    body = asked.whole(client, stop="END")
    assert (body["status"], body["output"][0]["content"][0]["text"]) == ("completed", "one ")


# --- input ----------------------------------------------------------------------------------------


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
def test_input_becomes_the_prompt_of_a_chat(client, engine, fields, messages, asked):
    asked.whole(client, **fields)
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


def test_an_output_can_be_sent_back(client, engine, asked):
    engine.say(f"Let me see.\n{asked.CALL}")
    output = asked.whole(client, tools=[asked.WEATHER])["output"]
    assert [item["type"] for item in output] == ["message", "function_call"]
    gave = {"type": "function_call_output", "call_id": output[1]["call_id"], "output": "Rain."}
    engine.say("It rains.")
    body = asked.whole(
        client, input=[message("user", "Weather?"), *output, gave], tools=[asked.WEATHER]
    )
    assert body["output"][0]["content"][0]["text"] == "It rains."


def test_nulls_and_harmless_fields_are_tolerated(client, engine, asked):
    names = set(ResponsesBody.model_fields) - {"model", "input"}
    asked.whole(client, **dict.fromkeys(names), frobnicate=None, service_tier="auto")
    asked.whole(client)
    assert engine.requests[0] == engine.requests[1]


def test_values_that_ask_for_nothing_pass(client, engine, asked):
    asked.whole(
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
    asked.whole(client)
    assert engine.requests[0] == engine.requests[1]


# --- refusals -------------------------------------------------------------------------------------

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
            {
                "tools": [
                    NOW,
                    {**NOW, "name": "f", "parameters": {"properties": {"a": {"type": "x"}}}},
                ]
            },
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
        response = httpx.post(f"{url}{PATH}", json={"model": "demo", "input": "Hi"}, timeout=60)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "input"
    assert error["message"] == "the chat template (gguf) refuses the input: no"


# --- the page -------------------------------------------------------------------------------------


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
