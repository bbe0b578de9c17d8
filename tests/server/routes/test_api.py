"""Answers of every route, over a real socket."""

import json
import math
import re
import threading

import httpx
import openai
import pytest

from llamacart.errors import EngineError
from llamacart_server.engine.request import GenerationReport, TokenEvent

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HI = [{"role": "user", "content": "Hi"}]


def complete(client, **fields):
    return client.post(COMPLETIONS, json={"model": "demo", "prompt": "a", **fields})


def chat(client, **fields):
    return client.post(CHAT, json={"model": "demo", "messages": HI, **fields})


def events(response):
    """Chunks of a stream, whose frame is checked."""
    assert response.headers["content-type"].startswith("text/event-stream")
    frames = response.text.split("\n\n")
    assert frames.pop() == ""
    assert frames.pop() == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@pytest.fixture
def sdk(client):
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


# --- completions ---------------------------------------------------------------------------------


def test_completion(client, engine):
    body = complete(client).json()
    assert re.fullmatch(r"cmpl-[0-9a-f]{32}", body.pop("id"))
    assert body.pop("created") > 1e9
    assert body == {
        "object": "text_completion",
        "model": "fake-1b",
        "cartridges": [],
        "choices": [{"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": 5,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }
    (request,) = engine.requests
    assert request.prompt == (0, 10 + ord("a"))
    assert (request.max_tokens, request.doses, request.ignore_eos) == (16, (), False)


def test_usage_tells_what_the_cache_had(client, engine):
    engine.report = GenerationReport(cached_tokens=3)
    prompts = complete(client, prompt=["a", "b"]).json()
    assert prompts["usage"]["prompt_tokens_details"] == {"cached_tokens": 6}


def test_telemetry_only_where_there_is_some(client, engine):
    complete(client)
    assert not engine.requests[-1].telemetry
    engine.report = GenerationReport(0, (math.nan, 0.5), 2)
    expected = {"dose": {"1": 0.5}, "capped_rows": 2}
    (choice,) = complete(client, telemetry=True).json()["choices"]
    assert engine.requests[-1].telemetry
    assert choice["telemetry"] == expected
    chunks = events(complete(client, telemetry=True, stream=True))
    shown = [c["choices"][0].get("telemetry") for c in chunks]
    assert shown == [None] * (len(chunks) - 1) + [expected]
    body = {"model": "fake-1b", "messages": [{"role": "user", "content": "a"}]}
    chat = client.post("/v1/chat/completions", json=body).json()
    assert chat["choices"][0]["telemetry"] == expected


def test_a_dose_that_was_capped_is_told_without_asking(client, engine):
    engine.report = GenerationReport(capped_rows=1)
    (choice,) = complete(client).json()["choices"]
    assert choice["telemetry"] == {"dose": {}, "capped_rows": 1}


def test_metrics(client, engine):
    engine.figures |= {"running": 2, "cached_tokens": 5, "cancelled": 7}
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    lines = response.text.splitlines()
    assert "llamacart_requests_running 2.0" in lines
    assert "llamacart_prompt_tokens_cached_total 5.0" in lines
    assert 'llamacart_requests_total{outcome="cancelled"} 7.0' in lines
    assert "# TYPE llamacart_kv_cells_used gauge" in lines


def test_completion_stream(client, engine):
    engine.say("héy")
    chunks = events(complete(client, stream=True))
    assert [c["choices"][0]["text"] for c in chunks] == ["h", "é", "y", ""]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, None, "stop"]
    assert len({c["id"] for c in chunks}) == 1
    assert all("usage" not in c and c["cartridges"] == [] for c in chunks)


def test_usage_chunk_comes_last_and_only_when_asked(client):
    chunks = events(complete(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 7
    assert all(c["usage"] is None and c["choices"] for c in chunks[:-1])


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("", [(0,)]),
        ("<bos>a", [(0, 107)]),
        ("<start_of_turn>", [(0, 2)]),
        (["a", "b"], [(0, 107), (0, 108)]),
        ([5, 107], [(5, 107)]),
        ([[107], [108, 109]], [(107,), (108, 109)]),
    ],
)
def test_prompt_forms(client, engine, prompt, tokens):
    body = complete(client, prompt=prompt).json()
    assert [r.prompt for r in engine.requests] == tokens
    assert [c["index"] for c in body["choices"]] == list(range(len(tokens)))
    assert [c["text"] for c in body["choices"]] == ["hello"] * len(tokens)
    assert body["usage"]["prompt_tokens"] == sum(map(len, tokens))
    assert body["usage"]["completion_tokens"] == 5 * len(tokens)


def test_several_prompts_stream_with_one_end_each(client):
    chunks = events(complete(client, prompt=["a", "b", "c"], stream=True))
    texts, ends = ["", "", ""], [0, 0, 0]
    for chunk in chunks:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        ends[choice["index"]] += choice["finish_reason"] is not None
    assert (texts, ends) == (["hello"] * 3, [1] * 3)


def test_stop_strings_never_leak(client, engine):
    engine.say("one END two", end=False)
    engine.hangs = True
    for stop in ("END", ["x", "END"]):
        (choice,) = complete(client, stop=stop).json()["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("one ", "stop")
        streamed = events(complete(client, stop=stop, stream=True))
        assert "".join(c["choices"][0]["text"] for c in streamed) == "one "
    assert all(g.finished for g in engine.generations)


def test_length(client, engine):
    engine.say("abc", limit=True)
    body = complete(client).json()
    assert body["choices"][0] == {
        "index": 0,
        "text": "abc",
        "logprobs": None,
        "finish_reason": "length",
    }
    assert body["usage"]["completion_tokens"] == 3


def test_sampling_parameters_reach_the_engine(client, engine):
    given = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "seed": 7,
    }
    assert complete(client, **given, logit_bias={"5": -100}, ignore_eos=True).status_code == 200
    (request,) = engine.requests
    sampling = vars(request.sampling)
    assert sampling == {**given, "logit_bias": ((5, -100.0),)} | {
        k: sampling[k] for k in sampling.keys() - given.keys() - {"logit_bias"}
    }
    assert request.ignore_eos


def test_nulls_are_tolerated(client, engine):
    names = [
        "cartridges", "cartridge", "alpha", "max_tokens", "temperature", "top_p", "top_k", "min_p",
        "presence_penalty", "frequency_penalty", "logit_bias", "seed", "ignore_eos", "stop",
        "stream", "stream_options", "user", "n", "response_format", "best_of", "echo", "suffix",
        "logprobs",
    ]  # fmt: skip
    assert complete(client, **dict.fromkeys(names), frobnicate=None).status_code == 200
    names += ["tools", "tool_choice", "top_logprobs", "functions", "function_call", "audio"]
    assert chat(client, **dict.fromkeys(names), max_completion_tokens=None).status_code == 200
    assert complete(client).status_code == 200
    first, _, third = engine.requests
    assert first == third


@pytest.mark.parametrize(("seed", "folded"), [(-1, None), (0, 0), (2**32 - 1, 0), (2**32, 1)])
def test_seeds_of_64_bits_are_folded(client, engine, seed, folded):
    complete(client, seed=seed)
    assert engine.requests[0].sampling.seed == folded


def test_a_whole_number_may_have_a_point(client, engine):
    complete(client, max_tokens=3.0, top_k=5.0, seed=7.0)
    (request,) = engine.requests
    assert (request.max_tokens, request.sampling.top_k, request.sampling.seed) == (3, 5, 7)


def test_top_p_may_be_zero(client, engine):
    assert complete(client, top_p=0).status_code == 200
    assert engine.requests[0].sampling.top_p == 0


@pytest.mark.parametrize(("top_k", "kept"), [(-1, 0), (0, 0), (3, 3)])
def test_top_k_off(client, engine, top_k, kept):
    complete(client, top_k=top_k)
    assert engine.requests[0].sampling.top_k == kept


@pytest.mark.parametrize(
    ("call", "fields", "limit"),
    [
        (complete, {}, 16),
        (chat, {}, 512),
        (complete, {"max_tokens": 3}, 3),
        (chat, {"max_tokens": 3}, 3),
        (chat, {"max_tokens": 3, "max_completion_tokens": 4}, 4),
        (chat, {"max_tokens": 10**9}, 2048),
    ],
)
def test_token_limits(client, engine, call, fields, limit):
    call(client, **fields)
    assert engine.requests[0].max_tokens == limit


# --- chat ----------------------------------------------------------------------------------------


def test_chat(client, engine):
    body = chat(client).json()
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", body["id"])
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "hello",
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    bos, start, end = 0, 2, 3
    prompt = engine.requests[0].prompt
    assert prompt[:2] == (bos, start)
    assert (prompt.count(bos), prompt.count(start), prompt.count(end)) == (1, 2, 1)


def test_chat_stream(client):
    chunks = events(chat(client, stream=True, stream_options={"include_usage": True}))
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    usage = chunks.pop()
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 5)
    deltas = [c["choices"][0]["delta"] for c in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(d["content"] for d in deltas[1:-1]) == "hello"
    assert deltas[-1] == {}
    reasons = [c["choices"][0]["finish_reason"] for c in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]


def test_an_empty_answer_still_streams_role_and_reason(client, engine):
    engine.script = [TokenEvent(None, "stop")]
    choices = [c["choices"][0] for c in events(chat(client, stream=True))]
    assert [c["delta"] for c in choices] == [{"role": "assistant", "content": ""}, {}]
    assert [c["finish_reason"] for c in choices] == [None, "stop"]


def test_message_forms(client, engine):
    messages = [
        {"role": "developer", "content": "D"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "tool_calls": None, "name": "x"},
        {"role": "user", "content": "<end_of_turn>"},
    ]
    assert chat(client, messages=messages).status_code == 200
    assert engine.requests[0].prompt.count(3) == 3


# --- cartridges ----------------------------------------------------------------------------------


def test_the_answer_says_what_acted(client, engine, library):
    french = {
        "id": "french",
        "alpha": 0.5,
        "hash": library.get("french").content_hash,
        "apply_to": "prompt",
    }
    chosen = [{"id": "french", "alpha": 0.5, "apply_to": "prompt"}]
    body = chat(client, cartridges=chosen).json()
    assert (body["model"], body["cartridges"]) == ("fake-1b:french@0.5", [french])
    (placed,) = engine.requests[0].doses
    assert (placed.dose.alpha, placed.apply_to) == (0.5, "prompt")
    for call in (chat, complete):
        chunks = events(call(client, cartridges=chosen, stream=True))
        assert all(c["cartridges"] == [french] for c in chunks)


def test_a_request_has_a_cartridge_wait(client, engine):
    for call in (chat, complete):
        assert call(client, cartridges=[{"id": "french", "when": ["travel"]}]).status_code == 200
        (placed,) = engine.requests[-1].doses
        assert placed.dose.when == ("travel",)
        wrong = call(client, cartridges=[{"id": "french", "when": [""]}])
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "cartridges[0].when")


def test_a_model_id_chooses_a_cartridge(client, engine):
    body = complete(client, model="fake-1b:french+formal@0").json()
    assert [c["id"] for c in body["cartridges"]] == ["french"]
    assert [p.dose.alpha for p in engine.requests[0].doses] == [0.8]


def test_alpha_zero_is_the_same_request_as_none(client, engine):
    bodies = [complete(client, model=m).json() for m in ("demo", "demo:french@0")]
    assert engine.requests[0] == engine.requests[1]
    assert [b["cartridges"] for b in bodies] == [[], []]


# --- other routes --------------------------------------------------------------------------------


def test_models(client, library):
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    base, formal, french = body["data"]
    assert base["id"] == "fake-1b"
    assert (base["parent"], base["n_ctx"], base["chat_template"]) == (None, 512, "builtin:gemma")
    assert (formal["id"], formal["parent"]) == ("fake-1b:formal", "fake-1b")
    assert french["cartridges"] == [
        {
            "id": "french",
            "alpha": 0.8,
            "default_alpha": 0.8,
            "hash": library.get("french").content_hash,
            "description": "About french.",
        }
    ]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("demo", "fake-1b"),
        ("fake-1b:french", "fake-1b:french"),
        ("fake-1b%3Afrench%400.5%2Bformal", "fake-1b:french@0.5+formal"),
        ("fake-1b:french@0.5+formal", "fake-1b:french@0.5+formal"),
    ],
)
def test_one_model(client, asked, found):
    assert client.get(f"/v1/models/{asked}").json()["id"] == found


@pytest.mark.parametrize("asked", ["x", "x/y", "fake-1b:dutch"])
def test_no_such_model(client, asked):
    response = client.get(f"/v1/models/{asked}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_tokenize_and_back(client):
    def tokens(**body):
        return client.post("/tokenize", json=body).json()["tokens"]

    assert tokens(content="a") == [107]
    assert tokens(content="a", add_special=True) == [0, 107]
    assert tokens(prompt="a<eos>") == [0, 107, 1]
    assert tokens(prompt="a", add_special_tokens=False) == [107]
    assert len(tokens(content="<eos>", parse_special=False)) == 5
    assert client.post("/tokenize", json={"prompt": "a"}).json() == {
        "tokens": [0, 107],
        "count": 2,
        "max_model_len": 512,
    }
    text = client.post("/detokenize", json={"tokens": [0, 107]}).json()
    assert text == {"content": "<bos>a", "prompt": "<bos>a"}


def test_a_chat_becomes_the_tokens_that_it_is_answered_from(client, engine):
    messages = [{"role": "system", "content": "S<eos>"}, {"role": "user", "content": "U"}]
    chat(client, messages=messages)
    answer = client.post("/tokenize", json={"messages": messages}).json()
    assert tuple(answer["tokens"]) == engine.requests[-1].prompt
    assert answer["count"] == len(answer["tokens"])
    for name in ("add_special", "add_special_tokens"):
        refused = client.post("/tokenize", json={"messages": messages, name: True})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, name)
    both = client.post("/tokenize", json={"messages": messages, "prompt": "a"})
    assert (both.status_code, both.json()["error"]["param"]) == (400, "content")


def test_how_to_tokenize(client, served):
    assert client.get("/tokenizer_info").json() == {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "chat_template": served.template.text,
        "model_max_length": 512,
    }


def test_probes(client):
    for path in ("/health", "/ready"):
        assert client.get(path).json() == {"status": "ok"}


def test_request_ids(client):
    assert complete(client).headers["x-request-id"]
    for path in ("/health", "/nothing"):
        given = client.get(path, headers={"X-Request-Id": "mine-1"})
        assert given.headers["x-request-id"] == "mine-1"
    replaced = client.get("/health", headers={"X-Request-Id": "not mine"})
    assert re.fullmatch(r"[0-9a-f]{32}", replaced.headers["x-request-id"])


# --- a client that goes away ---------------------------------------------------------------------


@pytest.mark.parametrize("call", [complete, chat])
@pytest.mark.parametrize("script", ["", "some text"])
def test_disconnect_cancels(client, engine, impatient, call, script):
    engine.say(script, end=False)
    engine.hangs = True
    path, body = (
        (COMPLETIONS, {"prompt": ["a", "b"]}) if call is complete else (CHAT, {"messages": HI})
    )
    count = 2 if call is complete else 1
    for stream in (True, False):
        engine.generations.clear()
        with pytest.raises(httpx.ReadTimeout):
            impatient(client, engine, count).post(
                path, json={"model": "demo", "stream": stream, **body}
            )
        assert len(engine.generations) == count
        assert all(g.cancelled.wait(60) for g in engine.generations)


def test_disconnect_leaves_others_alone(client, engine, impatient, until):
    engine.hangs = True
    engine.say("", end=False)
    bodies = []
    waiting = threading.Thread(target=lambda: bodies.append(complete(client).json()))
    waiting.start()
    until(lambda: engine.generations)
    with pytest.raises(httpx.ReadTimeout):
        complete(impatient(client, engine, 2))
    first, second = engine.generations
    assert second.cancelled.wait(60) != first.cancelled.is_set()
    engine.hangs = False
    waiting.join(60)
    assert bodies[0]["error"]["code"] == "engine_error"


# --- the official client -------------------------------------------------------------------------


def test_sdk_chat(sdk):
    answer = sdk.chat.completions.create(model="fake-1b:french", messages=HI)
    assert answer.choices[0].message.content == "hello"
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.model_extra["cartridges"][0]["alpha"] == 0.8
    assert answer._request_id


def test_sdk_chat_stream(sdk):
    stream = sdk.chat.completions.create(
        model="demo",
        messages=HI,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"cartridge": "french", "alpha": 0.5},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == "hello"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == 5
    assert chunks[0].model == "fake-1b:french@0.5"


def test_sdk_stream_helper(sdk):
    with sdk.chat.completions.stream(model="demo", messages=HI) as stream:
        assert stream.get_final_completion().choices[0].message.content == "hello"


def test_sdk_completions(sdk):
    assert sdk.completions.create(model="demo", prompt=["a", "b"]).choices[1].text == "hello"
    stream = sdk.completions.create(model="demo", prompt="a", stream=True)
    assert "".join(c.choices[0].text for c in stream) == "hello"


def test_sdk_models(sdk):
    assert [m.id for m in sdk.models.list()] == ["fake-1b", "fake-1b:formal", "fake-1b:french"]
    assert sdk.models.retrieve("fake-1b:french@0.5").id == "fake-1b:french@0.5"


def test_sdk_errors(sdk, engine):
    with pytest.raises(openai.NotFoundError, match="no cartridge 'dutch'"):
        sdk.chat.completions.create(model="demo:dutch", messages=HI)
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model="demo", messages=HI, n=9)
    assert (caught.value.param, caught.value.code) == ("n", "invalid_value")
    engine.script = [TokenEvent(107), EngineError("it broke")]
    stream = sdk.chat.completions.create(model="demo", messages=HI, stream=True)
    with pytest.raises(openai.APIError, match="it broke"):
        list(stream)
