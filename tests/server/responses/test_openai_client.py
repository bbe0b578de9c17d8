"""The official client on `/v1/responses`: both flavours, streams, parsed models, its errors."""

import asyncio

import openai
import pytest
from pydantic import BaseModel

from llamacart.errors import EngineError, OverloadedError
from llamacart_server.engine.request import TokenEvent


@pytest.fixture
def sdk(client):
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


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


def test_sdk_calls_and_the_turn_after(sdk, engine, asked):
    engine.say(f"Let me see.{asked.CALL}")
    given = {"model": "demo", "tools": [asked.WEATHER]}
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
