"""Requests for JSON, from the field to the grammar."""

import json

import pytest
from pydantic import BaseModel, Field

from llamacart.errors import InputError
from llamacart.json_grammar.schema import object_grammar, schema_grammar

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
    compiled = engine.requests[0].sampling.grammar
    assert (compiled and compiled.text) == grammar


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
            "response_format.json_schema.schema",
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"type": "string", "pattern": "(?=a)"}},
                }
            },
        ),
        (
            "response_format.json_schema.schema",
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
    body = {**BODIES["/v1/completions"], "guided_json": {"properties": {"x": {"not": {}}}}}
    message = client.post("/v1/completions", json=body).json()["error"]["message"]
    assert "#/properties/x has 'not', which is not supported" in message


class Share(BaseModel):
    part: float = Field(ge=0, le=1)
    code: str = Field(pattern=r"^[A-Z]{2}$")


def test_a_pydantic_model_with_bounds_and_patterns(client, engine):
    schema = {"name": "share", "schema": Share.model_json_schema()}
    given = {"type": "json_schema", "json_schema": schema}
    response = client.post(
        "/v1/completions", json={**BODIES["/v1/completions"], "response_format": given}
    )
    assert response.status_code == 200, response.text
    compiled = engine.requests[0].sampling.grammar
    for text, fits in (
        ('{"part": 0.25, "code": "AB"}', True),
        ('{"part": 1, "code": "AB"}', True),
        ('{"part": 1.5, "code": "AB"}', False),
        ('{"part": 1, "code": "ab"}', False),
    ):
        assert is_written(compiled, text) == fits


def is_written(compiled, text):
    state = compiled.start()
    for byte in text.encode():
        if not state.allows(10 + byte):
            return False
        state.accept(10 + byte)
    return state.allows(1)


ENDLESS = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}

NOTHING = {
    "anyOf": [
        {"type": "object", "properties": {}, "maxProperties": 0, "required": ["a"]},
        {"$ref": "#"},
    ]
}


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        (
            {"response_format": {"type": "json_object", "schema": {"anyOf": [False]}}},
            "response_format.schema",
            "#/anyOf/0",
        ),
        ({"guided_json": ENDLESS}, "guided_json", "# leads only to itself"),
        ({"guided_json": NOTHING}, "guided_json", "no text can follow the schema at #"),
        (
            {"structured_outputs": {"json": {"$defs": {"a": {"not": {}}}, "$ref": "#/$defs/a"}}},
            "structured_outputs.json",
            "#/$defs/a has 'not'",
        ),
    ],
)
def test_refusals_name_the_field_and_the_place(client, engine, fields, param, reason):
    response = client.post("/v1/completions", json={**BODIES["/v1/completions"], **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert reason in error["message"]
    assert not engine.requests


def test_choices_share_one_compiled_grammar(client, engine):
    body = {**BODIES["/v1/completions"], "guided_json": SCHEMA, "n": 3}
    assert client.post("/v1/completions", json=body).status_code == 200
    assert len({id(request.sampling.grammar) for request in engine.requests}) == 1
    client.post("/v1/completions", json=body)
    assert engine.requests[3].sampling.grammar is engine.requests[0].sampling.grammar


def test_a_vocabulary_without_an_end_has_no_schemas_and_all_else(
    client, engine, fake_model, monkeypatch
):
    def refuse(self):
        raise InputError("the vocabulary has no token that ends a generation")

    monkeypatch.setattr(type(fake_model), "grammars", property(refuse))
    body = BODIES["/v1/completions"]
    assert client.post("/v1/completions", json=body).status_code == 200
    response = client.post("/v1/completions", json={**body, "guided_json": SCHEMA})
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("guided_json: the vocabulary has no")
