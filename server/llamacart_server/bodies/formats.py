"""The fields that ask for an answer in JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from llamacart_server.bodies.fields import Body, Flag


class JsonSchemaFormat(Body):
    """`response_format.json_schema`; what it says is always kept, `strict` or not."""

    json_schema: Any = Field(alias="schema")
    name: str | None = None
    description: str | None = None
    strict: Flag | None = None


class ResponseFormat(Body):
    """`response_format`; `schema` beside `json_object` is llama-server's."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    bare_schema: Any = Field(None, alias="schema")


class StructuredOutputs(Body):
    """vLLM's `structured_outputs`, of which JSON alone is supported."""

    json_schema: Any = Field(None, alias="json")
    json_object: Flag | None = None
