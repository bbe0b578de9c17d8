"""What `POST /v1/responses` answers: the response object, and the events that tell of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field

from llamacart_server.bodies.answers import ActingCartridge, OptionalTelemetry
from llamacart_server.responses.body import (
    FunctionTool,
    FunctionToolChoice,
    PlainFormat,
    SchemaFormat,
)

if TYPE_CHECKING:
    from typing import Self

    from llamacart.errors import LlamacartError
    from llamacart_server.bodies.answers import Usage

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(BaseModel):
    """The text of a message."""

    type: Literal["output_text"] = "output_text"
    text: str = ""
    annotations: list[None] = []
    logprobs: list[None] = []


class OutputMessage(BaseModel):
    """What the model says."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: ItemStatus = "in_progress"
    content: list[OutputText] = []


class OutputCall(BaseModel):
    """A call that the model asks for; its arguments are cut off where the limit was reached."""

    id: str
    type: Literal["function_call"] = "function_call"
    status: ItemStatus = "in_progress"
    call_id: str
    name: str
    arguments: str = ""


OutputItem = Annotated[OutputMessage | OutputCall, Field(discriminator="type")]


class InputTokensDetails(BaseModel):
    """Of the prompt's tokens: those that the prefix cache had. None is ever billed as written."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(BaseModel):
    """Of the generated tokens: none is reasoning."""

    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """The same tokens by the names of this API."""
        cached = usage.prompt_tokens_details.cached_tokens
        return cls(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputTokensDetails(cached_tokens=cached),
            output_tokens=usage.completion_tokens,
            total_tokens=usage.total_tokens,
        )


class IncompleteDetails(BaseModel):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseFailure(BaseModel):
    """Why a response failed; the event `error` says it in more detail."""

    code: Literal["server_error"] = "server_error"
    message: str


class TextConfig(BaseModel):
    """The form of the text."""

    format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")]


class ReasoningConfig(BaseModel):
    """There is no reasoning."""

    effort: None = None
    summary: None = None


class ResponseObject(BaseModel):
    """Answer of `POST /v1/responses`; in events also one that is still being made."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"] = "in_progress"
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    model: str
    cartridges: list[ActingCartridge]
    output: list[OutputItem] = []
    usage: ResponseUsage | None = None
    telemetry: OptionalTelemetry = None

    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    prompt_cache_key: str | None
    safety_identifier: str | None
    temperature: float
    text: TextConfig
    tool_choice: Literal["none", "auto", "required"] | FunctionToolChoice
    tools: list[FunctionTool]
    top_p: float
    user: str | None

    background: Literal[False] = False
    previous_response_id: None = None
    reasoning: ReasoningConfig = ReasoningConfig()
    store: Literal[False] = False
    top_logprobs: Literal[0] = 0
    truncation: Literal["disabled"] = "disabled"


# --- events --------------------------------------------------------------------------------------


class Event(BaseModel):
    """What every event has; the first is number 0."""

    type: str
    sequence_number: int

    def json_text(self) -> str:
        """As a client gets it."""
        return self.model_dump_json(by_alias=True)


class ResponseEvent(Event):
    """The response as it stands at its begin and at its end."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponseObject


class ItemEvent(Event):
    """An item begins, or is complete."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class _InItem(Event):
    item_id: str
    output_index: int


class _InPart(_InItem):
    content_index: Literal[0] = 0


class PartEvent(_InPart):
    """The text of a message begins, or is complete."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    part: OutputText


class TextDelta(_InPart):
    """The next characters of a message."""

    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    delta: str
    logprobs: list[None] = []


class TextDone(_InPart):
    """All characters of a message."""

    type: Literal["response.output_text.done"] = "response.output_text.done"
    text: str
    logprobs: list[None] = []


class ArgumentsDelta(_InItem):
    """The next characters of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"] = (
        "response.function_call_arguments.delta"
    )
    delta: str


class ArgumentsDone(_InItem):
    """All characters of a call's arguments."""

    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    name: str
    arguments: str


class ErrorEvent(Event):
    """Why a response failed.

    `error` says it again in the shape of every other route; OpenAI's client raises an error
    where it finds that, and not otherwise.
    """

    type: Literal["error"] = "error"
    code: str
    message: str
    param: str | None
    error: dict[Literal["message", "type", "param", "code"], Any]

    @classmethod
    def of(cls, error: LlamacartError, sequence_number: int) -> Self:
        """The event for an error."""
        fields: dict[str, Any] = {
            "code": error.code,
            "message": error.message,
            "param": error.param,
        }
        return cls(sequence_number=sequence_number, **fields, error={**fields, "type": error.type})


StreamedEvent = (
    ResponseEvent
    | ItemEvent
    | PartEvent
    | TextDelta
    | TextDone
    | ArgumentsDelta
    | ArgumentsDone
    | ErrorEvent
)
