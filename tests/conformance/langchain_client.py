"""langchain-openai against a running server; `python langchain_client.py [URL]`."""

from __future__ import annotations

import asyncio
from typing import Literal

from checks import Checks, base_url
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field

checks = Checks("langchain-openai")
COMMON = {"base_url": base_url(), "api_key": "none", "temperature": 0, "seed": 1}
chat = ChatOpenAI(model="demo", max_tokens=24, **COMMON)
text = OpenAI(model="demo", max_tokens=8, **COMMON)


class Sighting(BaseModel):
    """An animal that was seen."""

    animal: Literal["llama", "cat", "dog"]
    count: int = Field(ge=1, le=9)


@tool
def weather(city: Literal["Paris", "London"]) -> str:
    """The weather of a city."""
    return f"Sunny in {city}."


@checks
def invoke() -> None:
    answer = chat.invoke("Say hello.")
    assert answer.content
    assert answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["finish_reason"] in ("stop", "length")


@checks
def stream() -> None:
    pieces = list(chat.stream("Say hello.", stream_usage=True))
    assert "".join(piece.content for piece in pieces) == chat.invoke("Say hello.").content
    assert sum(p.usage_metadata["output_tokens"] for p in pieces if p.usage_metadata) > 0


@checks
def batch() -> None:
    answers = chat.batch(["Say hello.", "Name a colour."])
    assert [answer.content for answer in answers] == [
        chat.invoke(question).content for question in ("Say hello.", "Name a colour.")
    ]


@checks
def asynchronous() -> None:
    async def both() -> tuple[str, str]:
        whole = await chat.ainvoke("Say hello.")
        pieces = [piece.content async for piece in chat.astream("Say hello.")]
        return whole.content, "".join(pieces)

    whole, streamed = asyncio.run(both())
    assert whole == streamed


@checks
def bind_tools() -> None:
    caller = chat.bind_tools([weather], tool_choice="weather").bind(max_tokens=64)
    question = "How is the weather in Paris?"
    answer = caller.invoke(question)
    (call,) = answer.tool_calls
    assert call["name"] == "weather"
    result = weather.invoke(call)
    assert chat.invoke([("user", question), answer, result]).content is not None
    gathered = None
    for piece in caller.stream(question):
        gathered = piece if gathered is None else gathered + piece
    assert [c["args"] for c in gathered.tool_calls] == [call["args"]]


@checks
def structured_output() -> None:
    for method in ("json_schema", "function_calling"):
        seer = ChatOpenAI(model="demo", max_tokens=64, **COMMON)
        found = seer.with_structured_output(Sighting, method=method).invoke("Two cats.")
        assert isinstance(found, Sighting), method


@checks
def json_mode() -> None:
    seer = ChatOpenAI(model="demo", max_tokens=200, **COMMON)
    found = seer.with_structured_output(method="json_mode").invoke("A llama, as short JSON.")
    assert isinstance(found, dict)


@checks
def logprobs() -> None:
    answer = chat.bind(logprobs=True, top_logprobs=2).invoke("Say hello.")
    content = answer.response_metadata["logprobs"]["content"]
    assert len(content[0]["top_logprobs"]) == 2


@checks
def completions() -> None:
    whole = text.invoke("The capital of France is")
    assert whole
    assert "".join(text.stream("The capital of France is")) == whole
    assert len(text.generate(["One", "Two"]).generations) == 2


checks.finish()
