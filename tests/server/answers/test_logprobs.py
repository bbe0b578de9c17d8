"""Log-probabilities and echoes on the wire, in both of OpenAI's shapes."""

import json
import math

import openai
import pytest

from llamacart.values.logprobs import TokenLogprobs
from llamacart_server.answers.logprobs import Echo
from llamacart_server.engine.request import GenerationReport, TokenEvent

BODIES = {
    "/v1/completions": {"model": "demo", "prompt": "ab"},
    "/v1/chat/completions": {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]},
}
COMPLETIONS, CHAT = BODIES
BOS, EOS = 0, 1


def post(client, path, **fields):
    response = client.post(path, json={**BODIES[path], **fields})
    assert response.status_code == 200, response.text
    return response


def chunks(response):
    frames = response.text.removesuffix("\n\n").split("\n\n")
    assert frames.pop() == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: "))["choices"][0] for frame in frames]


def ids(text):
    return [10 + byte for byte in text.encode()]


def scored(token, logprob=-1.0):
    return TokenLogprobs(token, logprob, ((ids("z")[0], -0.5), (BOS, -2.0)))


def say(engine, text, *, end=EOS):
    """Answer with `text`, a byte a token, whose log-probabilities are −0, −1, −2 …"""
    engine.script = [
        TokenEvent(token, None, scored(token, -float(i))) for i, token in enumerate(ids(text))
    ]
    engine.script.append(TokenEvent(None, "stop", scored(end, -9.0)))


@pytest.mark.parametrize(
    ("path", "fields", "asked"),
    [
        (COMPLETIONS, {}, (None, False)),
        (COMPLETIONS, {"logprobs": 0}, (0, False)),
        (COMPLETIONS, {"logprobs": 3}, (3, False)),
        (COMPLETIONS, {"logprobs": 1, "echo": True}, (1, True)),
        (COMPLETIONS, {"echo": True}, (None, False)),
        (CHAT, {}, (None, False)),
        (CHAT, {"logprobs": False}, (None, False)),
        (CHAT, {"logprobs": True}, (0, False)),
        (CHAT, {"logprobs": True, "top_logprobs": 5}, (5, False)),
    ],
)
def test_what_the_engine_is_asked_for(client, engine, path, fields, asked):
    engine.report = GenerationReport(prompt_logprobs=tuple(scored(t) for t in ids("ab")))
    post(client, path, **fields)
    (request,) = engine.requests
    assert (request.logprobs, request.prompt_logprobs) == asked


def test_chat(client, engine):
    say(engine, "hé")
    (choice,) = post(client, CHAT, logprobs=True, top_logprobs=2).json()["choices"]
    assert choice["logprobs"]["refusal"] is None
    content = choice["logprobs"]["content"]
    # The token that ended the generation is no part of the content.
    assert [entry["token"] for entry in content] == ["h", r"bytes:\xc3", r"bytes:\xa9"]
    assert bytes(b for entry in content for b in entry["bytes"]).decode() == "hé"
    assert [entry["logprob"] for entry in content] == [0.0, -1.0, -2.0]
    assert content[0]["top_logprobs"] == [
        {"token": "z", "logprob": -0.5, "bytes": [122]},
        {"token": "<bos>", "logprob": -2.0, "bytes": list(b"<bos>")},
    ]


def test_chat_stream_carries_them_with_their_text(client, engine):
    say(engine, "hé")
    streamed = chunks(post(client, CHAT, logprobs=True, stream=True))
    got = [(c["delta"].get("content"), c["logprobs"]) for c in streamed]
    assert [
        (text, logprobs and [entry["logprob"] for entry in logprobs["content"]])
        for text, logprobs in got
    ] == [("", None), ("h", [0.0]), ("é", [-1.0, -2.0]), (None, None)]


def test_without_asking_there_are_none(client, engine):
    for path in BODIES:
        (choice,) = post(client, path).json()["choices"]
        assert choice["logprobs"] is None


def test_completion(client, engine):
    say(engine, "xy")
    (choice,) = post(client, COMPLETIONS, logprobs=2).json()["choices"]
    assert choice["text"] == "xy"
    assert choice["logprobs"] == {
        "tokens": ["x", "y", "<eos>"],
        "token_logprobs": [0.0, -1.0, -9.0],
        "top_logprobs": [
            {"z": -0.5, "<bos>": -2.0, "x": 0.0},
            {"z": -0.5, "<bos>": -2.0, "y": -1.0},
            {"z": -0.5, "<bos>": -2.0, "<eos>": -9.0},
        ],
        "text_offset": [0, 1, 2],
    }


def test_completion_stream(client, engine):
    say(engine, "é!")
    streamed = chunks(post(client, COMPLETIONS, logprobs=0, stream=True))
    assert [c["text"] for c in streamed] == ["é", "!", ""]
    offsets = [c["logprobs"]["text_offset"] for c in streamed]
    assert offsets == [[0, 0], [1], [2]]
    assert [c["logprobs"]["tokens"] for c in streamed][1:] == [["!"], ["<eos>"]]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("text", "kept"), [("one END", 4), ("END", 0), ("oneENx END", 7)])
def test_tokens_of_a_stop_string_are_not_listed(client, engine, stream, text, kept):
    say(engine, text)
    response = post(client, COMPLETIONS, logprobs=0, stop="END", stream=stream)
    choices = chunks(response) if stream else response.json()["choices"]
    assert "".join(c["text"] for c in choices) == text[:kept]
    assert "".join(t for c in choices for t in c["logprobs"]["tokens"]) == text[:kept]


def test_impossible_tokens_have_a_number(client, engine):
    engine.script = [TokenEvent(ids("x")[0], "length", scored(ids("x")[0], -math.inf))]
    for path, place in ((COMPLETIONS, "token_logprobs"), (CHAT, "content")):
        fields = {"logprobs": True} if path == CHAT else {"logprobs": 0}
        (choice,) = post(client, path, **fields).json()["choices"]
        (entry,) = choice["logprobs"][place]
        assert (entry["logprob"] if path == CHAT else entry) == -9999.0


def test_of_tokens_with_one_name_the_likelier_counts(client, engine):
    token = ids("x")[0]
    value = TokenLogprobs(token, -3.0, ((token, -0.25), (BOS, -1.0)))
    engine.script = [TokenEvent(token, "length", value)]
    (choice,) = post(client, COMPLETIONS, logprobs=2).json()["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{"x": -0.25, "<bos>": -1.0}]


# --- echo ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_echo_scores_the_prompt_as_lm_eval_wants_it(client, engine, stream):
    engine.report = GenerationReport(prompt_logprobs=tuple(scored(t, -7.0) for t in ids("ab")))
    engine.script = [TokenEvent(ids("x")[0], "length", scored(ids("x")[0]))]
    fields = {"echo": True, "logprobs": 1, "max_tokens": 1, "stream": stream}
    response = post(client, COMPLETIONS, prompt=[BOS, *ids("ab")], **fields)
    (choice,) = chunks(response) if stream else response.json()["choices"]
    assert choice["text"] == "<bos>abx"
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["<bos>", "a", "b", "x"]
    assert logprobs["token_logprobs"] == [None, -7.0, -7.0, -1.0]
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["text_offset"] == [0, 5, 6, 7]


def test_a_scored_prompt_needs_no_answer(client, engine):
    engine.report = GenerationReport(prompt_logprobs=tuple(scored(t) for t in ids("ab")))
    engine.script = [TokenEvent(None, "length")]
    body = post(client, COMPLETIONS, echo=True, logprobs=0, max_tokens=0).json()
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("ab", "length")
    assert choice["logprobs"]["tokens"] == ["<bos>", "a", "b"]
    assert choice["logprobs"]["text_offset"] == [0, 0, 1]
    assert body["usage"]["completion_tokens"] == 0
    assert engine.requests[0].max_tokens == 0


@pytest.mark.parametrize("stream", [False, True])
def test_echo_without_logprobs(client, engine, stream):
    response = post(client, COMPLETIONS, prompt=["a", "b"], echo=True, n=2, stream=stream)
    choices = chunks(response) if stream else response.json()["choices"]
    texts = ["".join(c["text"] for c in choices if c["index"] == index) for index in range(4)]
    assert texts == ["ahello", "ahello", "bhello", "bhello"]
    assert all(c["logprobs"] is None for c in choices)


@pytest.mark.parametrize("stream", [False, True])
def test_echo_of_half_a_character(client, engine, stream):
    """JavaScript cuts an emoji in two where it counts characters."""
    body = {"model": "demo", "prompt": "a\ud83d", "echo": True, "stream": stream}
    response = client.post(
        COMPLETIONS, content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 200
    assert "a\ufffd\ufffd\ufffd" in response.text
    assert "error" not in response.text


def test_stop_strings_are_not_sought_in_the_echo(client, engine):
    (choice,) = post(client, COMPLETIONS, prompt="a b", echo=True, stop=" ").json()["choices"]
    assert choice["text"] == "a bhello"


@pytest.mark.parametrize(
    ("prompt", "text", "offsets"),
    [
        ("a", "a", (0, 0)),
        ("<bos>a", "<bos>a", (0, 5)),
        ([BOS, *ids("é")], "<bos>é", (0, 5, 5)),
        (ids("é")[:1], "�", (0,)),
    ],
)
def test_echo_of_a_prompt(fake_model, prompt, text, offsets):
    tokens = prompt
    if isinstance(prompt, str):
        special = not prompt.startswith("<bos>")
        tokens = fake_model.tokenize(prompt, add_special=special, parse_special=True)
    echo = Echo.of(prompt, tokens, fake_model)
    assert (echo.text, echo.offsets) == (text, offsets)


# --- refusals and the official client ------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "param", "fields"),
    [
        (COMPLETIONS, "logprobs", {"logprobs": -1}),
        (COMPLETIONS, "logprobs", {"logprobs": 21}),
        (COMPLETIONS, "logprobs", {"logprobs": True}),
        (COMPLETIONS, "echo", {"echo": "maybe"}),
        (COMPLETIONS, "max_tokens", {"max_tokens": 0, "echo": True}),
        (COMPLETIONS, "max_tokens", {"max_tokens": 0, "logprobs": 1}),
        (CHAT, "logprobs", {"logprobs": 5}),
        (CHAT, "top_logprobs", {"logprobs": True, "top_logprobs": 21}),
        (CHAT, "top_logprobs", {"top_logprobs": 3}),
        (CHAT, "top_logprobs", {"logprobs": False, "top_logprobs": 1}),
    ],
)
def test_refusals(client, engine, path, param, fields):
    response = client.post(path, json={**BODIES[path], **fields})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert param in error["message"]
    assert not engine.requests


def test_sdk(client, engine):
    say(engine, "hi")
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none") as sdk:
        chat = sdk.chat.completions.create(
            model="demo", messages=BODIES[CHAT]["messages"], logprobs=True, top_logprobs=2
        )
        assert [entry.token for entry in chat.choices[0].logprobs.content] == ["h", "i"]
        with sdk.chat.completions.stream(
            model="demo", messages=BODIES[CHAT]["messages"], logprobs=True
        ) as stream:
            (choice,) = stream.get_final_completion().choices
            assert [entry.logprob for entry in choice.logprobs.content] == [0.0, -1.0]
        whole = sdk.completions.create(model="demo", prompt="a", logprobs=1)
        assert whole.choices[0].logprobs.text_offset == [0, 1, 2]
