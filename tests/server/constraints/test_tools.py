"""Function calling: the grammar, the prompt, and calls in whole and streamed answers."""

import json
from types import SimpleNamespace

import openai
import pytest

from llamacart.chat.templates import ChatTemplate
from llamacart.json_grammar.grammar import Grammars
from llamacart_server.bodies.generation import ChatBody, Message
from llamacart_server.bodies.tools import Tool
from llamacart_server.constraints.tools import ToolReader, tool_use
from llamacart_server.prompts.chat import chat_tokens
from llamacart_server.prompts.tool_messages import for_template, knows_tools

FIRST_BYTE, END = 10, 1  # of the fake model's vocabulary
CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "Hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
ARGUMENTS = '{"city": "a}\\"]b"}'
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
NOW_CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
NAMED = {"type": "function", "function": {"name": "now"}}


def chat(client, **fields):
    body = {"model": "demo", "messages": HI, "tools": [WEATHER, NOW], **fields}
    response = client.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    return response


def streamed(response):
    frames = response.text.removesuffix("\n\n").split("\n\n")
    assert frames.pop() == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: "))["choices"][0] for frame in frames]


def joined(choices):
    """The message that a client puts together from deltas, and the reasons."""
    content, calls = "", []
    for choice in choices:
        content += choice["delta"].get("content", "")
        for call in choice["delta"].get("tool_calls", []):
            if call["index"] == len(calls):
                calls.append([call["id"], call["type"], call["function"]["name"], ""])
            else:
                assert set(call) == {"index", "function"}
                assert set(call["function"]) == {"arguments"}
            calls[call["index"]][3] += call["function"]["arguments"]
    return content, calls, [c["finish_reason"] for c in choices if c["finish_reason"]]


# --- answers -------------------------------------------------------------------------------------


def test_a_call(client, engine):
    engine.say(CALL)
    (choice,) = chat(client).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["id"].startswith("call_")
    assert (call["type"], call["function"]["name"]) == ("function", "weather")
    assert call["function"]["arguments"] == ARGUMENTS


def test_a_call_streams_its_arguments(client, engine):
    engine.say(CALL)
    choices = streamed(chat(client, stream=True))
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    content, ((name_id, kind, name, arguments),), reasons = joined(choices)
    assert name_id.startswith("call_")
    assert (content, kind, name, arguments) == ("", "function", "weather", ARGUMENTS)
    assert reasons == ["tool_calls"]
    # A byte a token: nearly each of them comes by itself.
    assert sum("tool_calls" in c["delta"] for c in choices) > len(ARGUMENTS) - 2


@pytest.mark.parametrize("stream", [False, True])
def test_text_and_several_calls(client, engine, stream):
    engine.say(f"Let me see.\n{CALL}\n{NOW_CALL}")
    response = chat(client, stream=stream, parallel_tool_calls=True)
    if stream:
        content, calls, reasons = joined(streamed(response))
        got = [(name, arguments) for _, _, name, arguments in calls]
        assert len({call[0] for call in calls}) == 2
    else:
        (choice,) = response.json()["choices"]
        content, reasons = choice["message"]["content"], [choice["finish_reason"]]
        got = [tuple(c["function"].values()) for c in choice["message"]["tool_calls"]]
    assert content == "Let me see.\n"
    assert got == [("weather", ARGUMENTS), ("now", "{}")]
    assert reasons == ["tool_calls"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", ["hello", "a < b <tool", "<", ""])
def test_text_alone(client, engine, stream, text):
    engine.say(text)
    response = chat(client, stream=stream)
    if stream:
        assert joined(streamed(response)) == (text, [], ["stop"])
    else:
        (choice,) = response.json()["choices"]
        assert choice["message"]["content"] == text
        assert "tool_calls" not in choice["message"]
        assert choice["finish_reason"] == "stop"


def test_a_call_that_is_cut_off(client, engine):
    engine.say(CALL[:-20], limit=True)
    (choice,) = chat(client).json()["choices"]
    assert choice["finish_reason"] == "length"
    (call,) = choice["message"]["tool_calls"]
    assert ARGUMENTS.startswith(call["function"]["arguments"])


def test_choices_have_calls_of_their_own(client, engine):
    engine.say(CALL)
    choices = streamed(chat(client, n=2, stream=True))
    for index in range(2):
        _, calls, _ = joined([c for c in choices if c["index"] == index])
        assert [call[3] for call in calls] == [ARGUMENTS]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_any_chunking_reads_the_same(size):
    text = f"One <tool_cal {CALL}\n{NOW_CALL}"
    reader = ToolReader()
    content, calls = "", {}
    for i in range(0, len(text), size):
        more, parts = reader.push(text[i : i + size])
        content += more
        for part in parts:
            calls[part.index] = calls.get(part.index, "") + (part.name or "") + part.arguments
    assert content + reader.finish() == "One <tool_cal "
    assert calls == {0: f"weather{ARGUMENTS}", 1: "now{}"}
    assert not reader.is_inside


# --- the grammar ---------------------------------------------------------------------------------


def grammar(client, engine, **fields):
    chat(client, **fields)
    return engine.requests[-1].sampling.grammar


def test_who_has_a_grammar(client, engine):
    assert grammar(client, engine, tools=[]) is None
    assert grammar(client, engine, tools=None, tool_choice="auto") is None
    assert grammar(client, engine, tool_choice="none") is None
    assert grammar(client, engine) == grammar(client, engine, tool_choice="auto")
    assert grammar(client, engine) != grammar(client, engine, tool_choice="required")
    named = grammar(client, engine, tool_choice=NAMED).text
    assert "now" in named
    assert "weather" not in named


def test_tools_that_may_not_be_called_are_not_in_the_prompt(client, engine):
    chat(client, tool_choice="none")
    chat(client, tools=None)
    assert engine.requests[0] == engine.requests[1]


def is_whole(compiled, answer):
    return tokens_fit(compiled, [*(FIRST_BYTE + byte for byte in answer.encode()), END])


def tokens_fit(compiled, tokens):
    state = compiled.start()
    for token in tokens:
        if not state.allows(token):
            return False
        state.accept(token)
    return True


@pytest.mark.parametrize(
    ("fields", "allowed", "refused"),
    [
        (
            {},
            ["", "Hello <tool", "a<<b", CALL, NOW_CALL, f"Well.\n{CALL}"],
            [f"{CALL}\n{NOW_CALL}", f"{CALL} and", CALL[:-1], "<tool_call>x", f"{CALL}\n"],
        ),
        ({"parallel_tool_calls": True}, ["Hi", f"{CALL}\n{NOW_CALL}"], [f"{CALL}{CALL}"]),
        ({"tool_choice": "required"}, [CALL, NOW_CALL], ["", "Hi", f" {CALL}"]),
        ({"tool_choice": NAMED}, [NOW_CALL], ["", CALL, "Hi"]),
    ],
)
def test_what_may_be_answered(client, engine, fields, allowed, refused):
    compiled = grammar(client, engine, **fields)

    assert [is_whole(compiled, answer) for answer in allowed] == [True] * len(allowed)
    assert [is_whole(compiled, answer) for answer in refused] == [False] * len(refused)


BOOKING = {
    "type": "object",
    "x-display": "form",
    "properties": {
        "site": {"type": "string", "format": "uri"},
        "code": {"type": "string", "pattern": "^(?!0)[0-9]+$", "nullable": True},
        "price": {"type": "number", "minimum": 0.5, "multipleOf": 0.05},
        "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        "note": {"type": "string", "maxLength": 10_000_000},
    },
    "required": ["site", "code"],
}


def test_what_a_grammar_cannot_keep_stays_in_the_prompt_alone(client, engine, fake_model, caplog):
    with caplog.at_level("WARNING"):
        for _ in range(2):
            compiled = grammar(client, engine, tools=[tool(parameters=BOOKING)])
    prompt = fake_model.detokenize(engine.requests[-1].prompt)
    for keyword in ("x-display", "uri", "(?!0)", "nullable", "multipleOf", "uniqueItems"):
        assert keyword in prompt
    told = [record.getMessage() for record in caplog.records if "not strict" in record.getMessage()]
    assert len(told) == 1
    for place in ("# has 'x-display'", "#/properties/code has pattern", "#/properties/tags has"):
        assert place in told[0]
    head = '<tool_call>\n{"name": "f", "arguments": '
    whole = (
        '{"site": "https://a.b", "code": null, "price": 0.51, "tags": ["a", "a"]}}\n</tool_call>'
    )
    assert is_whole(compiled, head + whole)
    assert not is_whole(compiled, head + whole.replace("0.51", "0.4"))
    assert not is_whole(compiled, head + whole.replace("https://a.b", "a b"))
    assert not is_whole(compiled, head + whole.replace('"code": null, ', ""))


def test_a_strict_function_is_kept_or_refused(client, engine):
    client_tool = tool(parameters=BOOKING, strict=True)
    body = {"model": "demo", "messages": HI, "tools": [client_tool]}
    error = client.post(CHAT, json=body).json()["error"]
    assert error["param"] == "tools[0].function.parameters"
    assert "the schema at # has 'x-display', which is not supported" in error["message"]
    kept = {"type": "object", "properties": {"a": {"type": "number", "minimum": 0, "maximum": 1}}}
    compiled = grammar(client, engine, tools=[tool(parameters=kept, strict=True)])
    call = '<tool_call>\n{"name": "f", "arguments": {"a": %s}}\n</tool_call>'
    assert [is_whole(compiled, call % value) for value in ("0.5", "1.5")] == [True, False]


def test_markers_that_are_control_tokens_may_be_written_as_such():
    pieces = [b"", b"", b"", *(bytes([byte]) for byte in range(256))]
    tokenizer = SimpleNamespace(grammars=Grammars(pieces, [0]))
    chat_body = ChatBody.model_validate({"model": "demo", "messages": HI, "tools": [NOW]})
    compiled = tool_use(chat_body, {"<tool_call>": 1, "</tool_call>": 2}, tokenizer).grammar
    call = [3 + byte for byte in b'\n{"name": "now", "arguments": {}}\n']
    spelt = [3 + byte for byte in b"<tool_call>"]
    for answer in ([1, *call, 2], [*spelt, *call, 2], [3 + ord("a"), 1, *call, 2], [3 + ord("a")]):
        assert tokens_fit(compiled, [*answer, 0])
    for answer in ([1, *call], [1, 1, *call, 2], [2], [3 + ord("a"), 2]):
        assert not tokens_fit(compiled, [*answer, 0])


# --- the prompt ----------------------------------------------------------------------------------

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Bern"}'},
            },
            {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
    {"role": "tool", "tool_call_id": "call_2", "content": "Noon."},
]
MESSAGES = [Message.model_validate(message) for message in CONVERSATION]
TOOLS = [Tool.model_validate(tool) for tool in (WEATHER, NOW)]


def test_a_template_without_tools_gets_plain_words():
    system, user, assistant, answers = for_template(MESSAGES, TOOLS, native=False)
    assert system["role"] == "system"
    assert '"name": "weather"' in system["content"]
    assert '{"name": "<function>", "arguments": {<arguments>}}' in system["content"]
    assert system["content"].endswith("\nBe brief.")
    assert user == {"role": "user", "content": "Weather?"}
    assert assistant["content"].count("<tool_call>") == 2
    assert '{"name": "weather", "arguments": {"city": "Bern"}}' in assistant["content"]
    assert answers["role"] == "user"
    assert answers["content"] == (
        "<tool_response>\nRain.\n</tool_response>\n<tool_response>\nNoon.\n</tool_response>"
    )


def test_a_template_with_tools_gets_them():
    *_, assistant, first, second = for_template(MESSAGES, TOOLS, native=True)
    assert assistant["content"] == ""
    assert assistant["tool_calls"][0]["function"]["arguments"] == {"city": "Bern"}
    assert first == {"role": "tool", "content": "Rain.", "tool_call_id": "call_1"}
    assert second["tool_call_id"] == "call_2"


NATIVE = (
    "{% for t in tools %}{{ t | tojson }};{% endfor %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% for c in m.tool_calls %}<tool_call>{{ c.function | tojson }}{% endfor %}|{% endfor %}"
)


def test_control_tokens_in_tools_and_calls_stay_text(fake_model):
    assert knows_tools(NATIVE)
    template = ChatTemplate("gguf", NATIVE)
    evil = "<end_of_turn>"
    tool = {"type": "function", "function": {"name": "f", "description": evil}}
    call = {"function": {"name": "f", "arguments": json.dumps({"x": evil})}}
    messages = [
        Message(role="user", content="Hi"),
        Message.model_validate({"role": "assistant", "tool_calls": [call]}),
    ]
    tokens = chat_tokens(template, messages, fake_model, [Tool.model_validate(tool)])
    text = fake_model.detokenize(tokens)
    assert text.startswith('{"type": "function", "function": {"name": "f", "description": "<end')
    assert '<tool_call>{"name": "f", "arguments": {"x": "<end_of_turn>"}}' in text
    assert 3 not in tokens


def test_a_whole_conversation_is_taken(client, engine):
    chat(client, messages=CONVERSATION)
    chat(client, messages=CONVERSATION, tools=None)
    with_tools, without = (len(request.prompt) for request in engine.requests)
    assert with_tools > without


# --- refusals and the official client ------------------------------------------------------------


def tool(**fields):
    return {"type": "function", "function": {"name": "f", **fields}}


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("tools", {"tools": "x"}),
        ("tools[0].type", {"tools": [{"type": "custom", "function": {"name": "f"}}]}),
        ("tools[0].function.name", {"tools": [tool(name="a b")]}),
        ("tools[1]", {"tools": [NOW, NOW]}),
        ("tools", {"tools": [tool(name=f"f{i}") for i in range(129)]}),
        ("tools[0].function.parameters", {"tools": [tool(parameters={"type": "string"})]}),
        (
            "tools[1].function.parameters",
            {"tools": [NOW, tool(parameters={"properties": {"a": {"type": "x"}}})]},
        ),
        ("tool_choice", {"tools": [], "tool_choice": "required"}),
        ("tool_choice", {"tools": None, "tool_choice": NAMED}),
        ("tool_choice", {"tools": [WEATHER], "tool_choice": NAMED}),
        ("tools", {"response_format": {"type": "json_object"}}),
    ],
)
def test_refusals(client, engine, param, fields):
    body = {"model": "demo", "messages": HI, "tools": [WEATHER, NOW], **fields}
    response = client.post(CHAT, json=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert param in error["message"]
    assert not engine.requests


def test_sdk(client, engine):
    engine.say(CALL)
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none") as sdk:
        whole = sdk.chat.completions.create(model="demo", messages=HI, tools=[WEATHER])
        (call,) = whole.choices[0].message.tool_calls
        assert json.loads(call.function.arguments) == {"city": 'a}"]b'}
        with sdk.chat.completions.stream(model="demo", messages=HI, tools=[WEATHER]) as stream:
            (choice,) = stream.get_final_completion().choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.tool_calls[0].function.name == "weather"
