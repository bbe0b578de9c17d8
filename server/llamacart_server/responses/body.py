"""Body of `POST /v1/responses`.

The Responses API writes a chat as a list of items: messages, calls and what they gave. Nothing is
kept between requests, so whatever would need an earlier response is refused.
"""

from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticSerializationError, to_json

from llamacart_server.bodies.examples import RESPONSES
from llamacart_server.bodies.fields import Body, Empty, Flag, Off, Only, WholeNumber
from llamacart_server.bodies.generation import SampledBody
from llamacart_server.bodies.tools import FunctionName


def _named_otherwise(name: str) -> AfterValidator:
    """Refuse a field of the other APIs, and say what it is called here."""

    def check(value: object) -> object:
        if value is not None:
            raise ValueError(f"is called {name!r} in this API")
        return value

    return AfterValidator(check)


_InTextFormat = Annotated[Any, _named_otherwise("text.format")]

_ANSWER_DEPTH = 8
"""More than what surrounds a repeated value in an answer."""


def _can_be_repeated(value: object) -> object:
    wrapped = value
    for _ in range(_ANSWER_DEPTH):
        wrapped = [wrapped]
    try:
        to_json(wrapped)
    except PydanticSerializationError:
        raise ValueError("has a lone surrogate or is nested too deeply") from None
    return value


# Parts of the request that the answer repeats.
RepeatedText = Annotated[str, AfterValidator(_can_be_repeated)]
RepeatedSchema = Annotated[dict[str, Any], AfterValidator(_can_be_repeated)]


# --- input ---------------------------------------------------------------------------------------


class ContentPart(Body):
    """A part of a message, or of what a call gave."""

    harmless: ClassVar[Collection[str]] = ("annotations", "cache_control", "logprobs")

    type: Literal["input_text", "output_text"]
    text: str


Content = str | list[ContentPart]


class MessageItem(Body):
    """A message of the past; also one of an earlier response's output."""

    harmless: ClassVar[Collection[str]] = ("id", "name", "phase", "status")

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: Content


class FunctionCallItem(Body):
    """A call that the model asked for."""

    harmless: ClassVar[Collection[str]] = ("id", "status")

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class FunctionOutputItem(Body):
    """What a call gave."""

    harmless: ClassVar[Collection[str]] = ("id", "name", "status")

    type: Literal["function_call_output"]
    call_id: str | None = None
    output: Content


_KINDS = ("message", "function_call", "function_call_output")


def _kind(item: Any) -> str:
    kind = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return kind or _KINDS[0]


def _of_known_kind(item: Any) -> Any:
    kind = _kind(item)
    if kind not in _KINDS:
        raise ValueError(f"type {kind!r} is not supported by this server; {', '.join(_KINDS)} are")
    return item


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionOutputItem, Tag("function_call_output")],
    Discriminator(_kind),
    BeforeValidator(_of_known_kind),
]


# --- tools and format ----------------------------------------------------------------------------


class FunctionTool(Body):
    """An item of `tools`; where it is not `strict`, what its schema asks may be left out."""

    harmless: ClassVar[Collection[str]] = ("cache_control",)

    type: Literal["function"]
    name: FunctionName
    description: RepeatedText | None = None
    parameters: RepeatedSchema | None = None
    strict: Flag | None = None


class FunctionToolChoice(Body):
    """A `tool_choice` of one function."""

    type: Literal["function"]
    name: str


class PlainFormat(Body):
    """`text.format` of any text, or of any JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(Body):
    """`text.format` with a schema, which is always kept, `strict` or not."""

    type: Literal["json_schema"]
    name: RepeatedText
    json_schema: RepeatedSchema = Field(alias="schema")
    description: RepeatedText | None = None
    strict: Flag | None = None


class TextOptions(Body):
    """`text`."""

    format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["medium"] | None = None


class ReasoningOptions(Body):
    """`reasoning`, of which there is none."""

    harmless: ClassVar[Collection[str]] = ("generate_summary", "summary")

    effort: Literal["none"] | None = None


# --- the body ------------------------------------------------------------------------------------

MetadataKey = Annotated[RepeatedText, Field(max_length=64)]
MetadataValue = Annotated[RepeatedText, Field(max_length=512)]


class ResponsesBody(SampledBody):
    """Body of `POST /v1/responses`."""

    model_config = ConfigDict(json_schema_extra={"examples": RESPONSES})

    input: str | Annotated[list[InputItem], Field(min_length=1)]
    instructions: RepeatedText | None = None
    user: RepeatedText | None = None
    max_output_tokens: Annotated[WholeNumber, Field(ge=1)] | None = None
    text: TextOptions | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionToolChoice | None = None
    parallel_tool_calls: Flag | None = None
    store: Flag | None = Field(
        None, description="Accepted because clients send it; nothing is ever stored."
    )
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    truncation: Literal["disabled"] | None = None
    safety_identifier: RepeatedText | None = None
    prompt_cache_key: RepeatedText | None = None
    # It limits built-in tools, and there are none.
    max_tool_calls: Annotated[WholeNumber, Field(ge=1)] | None = None
    include: list[Literal["reasoning.encrypted_content"]] | None = Field(
        None, description="What would be added to reasoning, of which there is none."
    )
    reasoning: ReasoningOptions | None = None
    top_logprobs: Annotated[Any, Only(0)] = None

    background: Off = None
    previous_response_id: Empty = None
    conversation: Empty = None
    prompt: Empty = None
    context_management: Empty = None
    moderation: Empty = None
    prompt_cache_options: Empty = None
    compare: Off = None
    n: Annotated[Any, Only(1)] = None

    max_tokens: Annotated[Any, _named_otherwise("max_output_tokens")] = None
    response_format: _InTextFormat = None
    structured_outputs: _InTextFormat = None
    guided_json: _InTextFormat = None
    json_schema: _InTextFormat = None
