"""litellm's `openai/` provider against a running server; `python litellm_client.py [URL]`."""

from __future__ import annotations

import asyncio
import json

import litellm
from checks import Checks, base_url

checks = Checks("litellm")
litellm.suppress_debug_info = True
HELLO = [{"role": "user", "content": "Say hello."}]
COMMON = {
    "model": "openai/demo",
    "api_base": base_url(),
    "api_key": "none",
    "temperature": 0,
    "seed": 1,
    "max_tokens": 24,
    "num_retries": 0,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "London"]}},
            "required": ["city"],
        },
    },
}


def content(answer: object) -> str:
    return answer.choices[0].message.content  # type: ignore[attr-defined]


@checks
def completion() -> None:
    answer = litellm.completion(messages=HELLO, **COMMON)
    assert content(answer)
    assert answer.usage.completion_tokens > 0
    assert answer.choices[0].finish_reason in ("stop", "length")


@checks
def streaming() -> None:
    pieces = list(
        litellm.completion(
            messages=HELLO, stream=True, stream_options={"include_usage": True}, **COMMON
        )
    )
    text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert text == content(litellm.completion(messages=HELLO, **COMMON))
    assert pieces[-1].usage.completion_tokens > 0


@checks
def asynchronous() -> None:
    async def both() -> tuple[str, str]:
        whole = await litellm.acompletion(messages=HELLO, **COMMON)
        stream = await litellm.acompletion(messages=HELLO, stream=True, **COMMON)
        pieces = [p.choices[0].delta.content or "" async for p in stream]
        return content(whole), "".join(pieces)

    whole, streamed = asyncio.run(both())
    assert whole == streamed


@checks
def text_completion() -> None:
    given = {**COMMON, "model": "text-completion-openai/demo", "max_tokens": 8}
    answer = litellm.text_completion(prompt="The capital of France is", **given)
    assert answer.choices[0].text


@checks
def tools() -> None:
    question = [{"role": "user", "content": "How is the weather in Paris?"}]
    answer = litellm.completion(
        messages=question, tools=[WEATHER], tool_choice="required", **{**COMMON, "max_tokens": 64}
    )
    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "London")


@checks
def json_answer() -> None:
    answer = litellm.completion(
        messages=HELLO,
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "greeting",
                "schema": {
                    "type": "object",
                    "properties": {"word": {"enum": ["hello", "bye"]}},
                    "required": ["word"],
                    "additionalProperties": False,
                },
            },
        },
        **COMMON,
    )
    assert json.loads(content(answer)).keys() == {"word"}


def raises(kind: type[Exception], **changed: object) -> None:
    try:
        litellm.completion(**{"messages": HELLO, **COMMON, **changed})
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


@checks
def errors() -> None:
    raises(litellm.BadRequestError, temperature=-1)
    raises(litellm.NotFoundError, model="openai/nothing")
    raises(litellm.ContextWindowExceededError, messages=[{"role": "user", "content": "a " * 9000}])


checks.finish()
