"""What the tests ask of `/v1/responses`, and how they read its answers and its streams."""

from __future__ import annotations

import json
import re

import pytest
from openai.types.responses import Response as OpenAIResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

PATH = "/v1/responses"
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


def shape(output):
    return [
        (item["status"], item["name"], item["arguments"])
        if item["type"] == "function_call"
        else (item["status"], item["content"][0]["text"])
        for item in output
    ]


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


class Asked:
    """What tests use, as one fixture: this file cannot be imported."""

    PARAMETERS = PARAMETERS
    WEATHER = WEATHER
    NOW = NOW
    ARGUMENTS = ARGUMENTS
    CALL = CALL
    WEATHER_CALL = ("completed", "weather", ARGUMENTS)
    NOW_CALL = NOW_CALL
    respond = staticmethod(respond)
    whole = staticmethod(whole)
    streamed = staticmethod(streamed)
    kinds = staticmethod(kinds)
    stable = staticmethod(stable)
    shape = staticmethod(shape)
    check_story = staticmethod(check_story)


@pytest.fixture(scope="session")
def asked() -> type[Asked]:
    """Tools, what a model says to call them, and functions that ask and that check."""
    return Asked
