"""Requests for JSON, from the field to the grammar."""

import json

import pytest

from llamacart.json_schema import object_grammar, schema_grammar

BODIES = {
    "/v1/completions": {"model": "demo", "prompt": "a"},
    "/v1/chat/completions": {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
NAMED = {"name": "answer", "schema": SCHEMA, "strict": True}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, object_grammar()),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            schema_grammar(SCHEMA),
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": NAMED}},
            schema_grammar(SCHEMA),
        ),
        ({"guided_json": SCHEMA}, schema_grammar(SCHEMA)),
        ({"guided_json": json.dumps(SCHEMA)}, schema_grammar(SCHEMA)),
        ({"guided_json": {}}, schema_grammar({})),
        ({"guided_json": ""}, None),
        ({"json_schema": SCHEMA}, schema_grammar(SCHEMA)),
        ({"structured_outputs": {"json": SCHEMA}}, schema_grammar(SCHEMA)),
        ({"structured_outputs": {"json_object": True}}, object_grammar()),
        ({"structured_outputs": {}, "response_format": {"type": "json_object"}}, object_grammar()),
    ],
)
def test_fields(client, engine, path, fields, grammar):
    response = client.post(path, json={**BODIES[path], **fields})
    assert response.status_code == 200, response.text
    assert engine.requests[0].sampling.grammar == grammar


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("response_format", {"response_format": "json"}),
        ("response_format.type", {"response_format": {}}),
        ("response_format.type", {"response_format": {"type": "xml"}}),
        ("response_format.json_schema", {"response_format": {"type": "json_schema"}}),
        (
            "response_format.json_schema.schema",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        ),
        (
            "response_format",
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"type": "string", "pattern": "a"}},
                }
            },
        ),
        (
            "response_format",
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}},
        ),
        ("guided_json", {"guided_json": "{"}),
        ("guided_json", {"guided_json": "[" * 100_000}),
        ("guided_json", {"guided_json": {"type": "strin"}}),
        ("guided_json", {"guided_json": SCHEMA, "response_format": {"type": "json_object"}}),
        ("structured_outputs.regex", {"structured_outputs": {"regex": "a"}}),
        ("json_schema", {"json_schema": {"not": {}}}),
    ],
)
def test_refusals(client, engine, path, param, fields):
    response = client.post(path, json={**BODIES[path], **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert param in error["message"]
    assert not engine.requests


def test_the_message_says_where_a_schema_is_not_supported(client):
    body = {**BODIES["/v1/completions"], "guided_json": {"properties": {"x": {"pattern": "a"}}}}
    message = client.post("/v1/completions", json=body).json()["error"]["message"]
    assert "#/properties/x has 'pattern', which is not supported" in message
