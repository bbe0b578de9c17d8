"""The official client: both flavours, every endpoint, its exceptions and its retries.

`test_api.py` has what the synchronous client reads of each answer; this has the rest.
"""

import asyncio
from collections import Counter

import openai
import pytest
from pydantic import BaseModel

from llamacart.errors import EngineError, LlamacartError, OverloadedError
from llamacart_server.engine.request import TokenEvent

HI = [{"role": "user", "content": "Hi"}]
CHAT = {"model": "demo", "messages": HI}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def sdk_of(client, **options):
    return openai.OpenAI(
        base_url=f"{client.base_url}/v1", **{"api_key": "none", "max_retries": 0, **options}
    )


@pytest.fixture
def sdk(client):
    with sdk_of(client) as sdk:
        yield sdk


@pytest.fixture
def run(client):
    """Function that runs what is to be done with an asynchronous client."""

    def runs(use):
        async def main():
            async with openai.AsyncOpenAI(
                base_url=f"{client.base_url}/v1", api_key="none", max_retries=0
            ) as sdk:
                return await use(sdk)

        return asyncio.run(main())

    return runs


# --- asynchronous --------------------------------------------------------------------------------


def test_async_answers(run):
    async def use(sdk):
        chat = await sdk.chat.completions.create(**CHAT)
        text = await sdk.completions.create(model="demo", prompt=["a", "b"])
        models = [model.id async for model in sdk.models.list()]
        one = await sdk.models.retrieve("fake-1b:french")
        return chat, text, models, one

    chat, text, models, one = run(use)
    assert chat.choices[0].message.content == "hello"
    assert [choice.text for choice in text.choices] == ["hello", "hello"]
    assert (models[0], one.id) == ("fake-1b", "fake-1b:french")


def test_async_streams(run):
    async def use(sdk):
        asked = {"stream": True, "stream_options": {"include_usage": True}}
        chat = [c async for c in await sdk.chat.completions.create(**CHAT, **asked)]
        text = [c async for c in await sdk.completions.create(model="demo", prompt="a", **asked)]
        async with sdk.chat.completions.stream(**CHAT) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_completion()
        return chat, text, kinds, final

    chat, text, kinds, final = run(use)
    assert "".join(c.choices[0].delta.content or "" for c in chat[:-1]) == "hello"
    assert "".join(c.choices[0].text for c in text[:-1]) == "hello"
    assert [c[-1].usage.completion_tokens for c in (chat, text)] == [5, 5]
    assert Counter(kinds)["content.done"] == 1
    assert final.choices[0].message.content == "hello"


def test_many_at_once(run):
    async def use(sdk):
        return await asyncio.gather(*(sdk.chat.completions.create(**CHAT) for _ in range(20)))

    assert [a.choices[0].message.content for a in run(use)] == ["hello"] * 20


def test_async_errors(run, engine):
    async def use(sdk):
        with pytest.raises(openai.NotFoundError, match="no model 'nothing'"):
            await sdk.chat.completions.create(model="nothing", messages=HI)
        with pytest.raises(openai.BadRequestError, match="temperature"):
            await sdk.completions.create(model="demo", prompt="a", temperature=-1)
        engine.script = [TokenEvent(107), EngineError("it broke")]
        stream = await sdk.chat.completions.create(**CHAT, stream=True)
        with pytest.raises(openai.APIError, match="it broke"):
            _ = [chunk async for chunk in stream]

    run(use)


def test_a_stream_that_is_closed_early_ends_its_generation(run, engine):
    engine.say("hel", end=False)
    engine.hangs = True

    async def use(sdk):
        stream = await sdk.chat.completions.create(**CHAT, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()

    run(use)
    assert engine.generations[0].cancelled.wait(60)


# --- helpers of the client -----------------------------------------------------------------------


class Sighting(BaseModel):
    animal: str
    count: int


def test_parsed_answers(sdk, engine):
    engine.say('{"animal": "llama", "count": 2}')
    answer = sdk.chat.completions.parse(**CHAT, response_format=Sighting)
    assert answer.choices[0].message.parsed == Sighting(animal="llama", count=2)
    assert engine.requests[0].sampling.grammar
    with sdk.chat.completions.stream(**CHAT, response_format=Sighting) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed.count == 2


def test_parsed_calls(sdk, engine):
    arguments = '{"animal": "cat", "count": 1}'
    call = f'{{"name": "Sighting", "arguments": {arguments}}}'
    engine.say(f"<tool_call>\n{call}\n</tool_call>")
    tool = openai.pydantic_function_tool(Sighting)
    answer = sdk.chat.completions.parse(**CHAT, tools=[tool])
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.parsed_arguments == Sighting(animal="cat", count=1)
    with sdk.chat.completions.stream(**CHAT, tools=[tool]) as stream:
        kinds = Counter(event.type for event in stream)
        final = stream.get_final_completion()
    assert kinds["tool_calls.function.arguments.done"] == 1
    assert final.choices[0].message.tool_calls[0].function.parsed_arguments.animal == "cat"


def test_an_answer_cut_short_cannot_be_parsed(sdk, engine):
    engine.say('{"animal": "ll', limit=True)
    with pytest.raises(openai.LengthFinishReasonError):
        sdk.chat.completions.parse(**CHAT, response_format=Sighting)


def test_raw_and_streamed_responses(sdk):
    raw = sdk.chat.completions.with_raw_response.create(**CHAT)
    assert raw.headers["x-request-id"] == raw.parse()._request_id
    with sdk.completions.with_streaming_response.create(model="demo", prompt="a") as response:
        assert response.parse().choices[0].text == "hello"


@pytest.mark.parametrize("name", ["embeddings", "responses"])
def test_endpoints_that_a_server_may_not_have(sdk, client, name):
    if client.post(f"/v1/{name}", json={}).status_code == 404:
        pytest.skip(f"this server has no /v1/{name}")
    if name == "embeddings":
        assert sdk.embeddings.create(model="demo", input="a").data
    else:
        assert sdk.responses.create(model="demo", input="Hi").output_text == "hello"


# --- exceptions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"temperature": 9e9}, openai.BadRequestError, "temperature"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"tools": [TOOL, TOOL]}, openai.BadRequestError, "tools[1]"),
        ({"model": "demo:dutch"}, openai.NotFoundError, "model"),
    ],
)
def test_what_a_client_does_wrong(sdk, fields, kind, param):
    for stream in (False, True):
        with pytest.raises(kind) as caught:
            sdk.chat.completions.create(**{**CHAT, **fields}, stream=stream)
        assert caught.value.param == param
        assert caught.value.type == "invalid_request_error"
        assert caught.value.body["message"]


@pytest.mark.parametrize("error", [EngineError("it broke"), ValueError("secret"), OverloadedError])
def test_what_a_server_does_wrong(sdk, engine, error):
    engine.refusals = [error("full") if isinstance(error, type) else error]
    with pytest.raises(openai.InternalServerError) as caught:
        sdk.chat.completions.create(**CHAT)
    expected = error.code if isinstance(error, LlamacartError) else caught.value.code
    assert caught.value.code == expected
    assert "secret" not in str(caught.value)


def test_keys(serve, engine, still_clock):
    client = serve(engine, api_key=["right"], rate_limit=2)
    with sdk_of(client, api_key="wrong") as sdk, pytest.raises(openai.AuthenticationError):
        sdk.models.list()
    with sdk_of(client, api_key="right") as sdk:
        sdk.models.list()
        sdk.models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            sdk.models.list()
    assert caught.value.response.headers["retry-after"] == "30"


def test_administration(sdk):
    with pytest.raises(openai.PermissionDeniedError) as caught:
        sdk.post("/load_lora_adapter", cast_to=str, body={"lora_name": "x", "lora_path": "x.gguf"})
    assert caught.value.code == "admin_off"


def test_a_client_that_waits_no_longer(client, engine, impatient):
    engine.say("", end=False)
    engine.hangs = True
    http = impatient(client, engine)
    sdk = sdk_of(client, http_client=http, timeout=http.timeout)
    with sdk, pytest.raises(openai.APITimeoutError):
        sdk.chat.completions.create(**CHAT)
    assert engine.generations[0].cancelled.wait(60)


# --- retries -------------------------------------------------------------------------------------


def test_a_full_queue_is_retried(client, engine):
    engine.refusals = [OverloadedError("the queue is full"), None]
    with sdk_of(client, max_retries=2) as sdk:
        raw = sdk.chat.completions.with_raw_response.create(**CHAT)
    assert (raw.retries_taken, raw.parse().choices[0].message.content) == (1, "hello")


def test_what_the_client_did_wrong_is_not_retried(client, engine):
    engine.refusals = [None, OverloadedError("not to be reached")]
    with sdk_of(client, max_retries=2) as sdk, pytest.raises(openai.BadRequestError):
        sdk.chat.completions.create(**CHAT, top_p=3)
    assert not engine.requests


def test_an_answer_that_took_too_long_is_not_retried(serve, engine):
    engine.say("", end=False)
    engine.hangs = True
    client = serve(engine, request_timeout=0.05)
    with (
        sdk_of(client, max_retries=2) as sdk,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        sdk.chat.completions.create(**CHAT)
    assert (caught.value.code, len(engine.requests)) == ("request_timeout", 1)
