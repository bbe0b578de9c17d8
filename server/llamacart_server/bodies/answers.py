"""Response bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, Field

from llamacart_server.answers.doses import TokenDose, by_layer
from llamacart_server.answers.logprobs import ChatLogprobs, CompletionLogprobs
from llamacart_server.engine.request import FinishReason

if TYPE_CHECKING:
    from typing import Self

    from llamacart_server.engine.request import GenerationReport
    from llamacart_server.library.selection import Selection


class PromptTokensDetails(BaseModel):
    """How the prompt was computed: how many of its tokens the prefix cache had."""

    cached_tokens: int = 0


class Usage(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Self:
        """Usage with its total."""
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=cached_tokens),
        )


class ActingCartridge(BaseModel):
    """A cartridge that acted on an answer."""

    id: str
    alpha: float
    hash: str
    apply_to: str

    @classmethod
    def list_of(cls, selection: Selection) -> list[Self]:
        """The cartridges of a selection that act."""
        return [
            cls(
                id=placed.dose.cartridge.name,
                alpha=placed.dose.alpha,
                hash=placed.dose.cartridge.content_hash,
                apply_to=placed.apply_to,
            )
            for placed in selection.acting
        ]


class Envelope(BaseModel):
    """What every answer, and every chunk of one, begins with."""

    id: str
    created: int
    model: str
    cartridges: list[ActingCartridge]


_if_there = Field(exclude_if=lambda value: value is None)


class Telemetry(BaseModel):
    """What steering did to one choice: in its last piece, if asked for or if the limit acted.

    Where each token's was asked for, every piece that a token begins in has `tokens`.

    Attributes:
        dose: By layer, the mean over rows of ‖Δ‖/‖h_S‖; empty where it was not asked for, absent
            before the last piece and where there is nothing to tell of the whole choice.
        capped_rows: Rows where the dose limit made a delta smaller; absent with `dose`.
        tokens: Each token that begins here; absent where none does or nobody asked.
    """

    dose: Annotated[dict[int, float] | None, _if_there] = None
    capped_rows: Annotated[int | None, _if_there] = None
    tokens: Annotated[list[TokenDose] | None, _if_there] = None

    @classmethod
    def of(cls, report: GenerationReport | None, tokens: list[TokenDose]) -> Self | None:
        """Telemetry of a choice or a piece of it, where there is any to give."""
        has_dose = report is not None and (report.dose is not None or report.capped_rows)
        if report is not None and has_dose:
            dose = by_layer(report.dose)
            return cls(dose=dose, capped_rows=report.capped_rows, tokens=tokens or None)
        return cls(tokens=tokens) if tokens else None


OptionalCartridges = Annotated[list[ActingCartridge] | None, _if_there]
OptionalTelemetry = Annotated[Telemetry | None, _if_there]
ChatFinishReason = FinishReason | Literal["tool_calls"]


class CompletionChoice(BaseModel):
    """One text, or in a stream the next piece of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None
    cartridges: OptionalCartridges = None
    telemetry: OptionalTelemetry = None


class Completion(Envelope):
    """Answer, or chunk, of `POST /v1/completions`."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]
    usage: Usage | None


class CalledFunction(BaseModel):
    """The function of a call and its arguments as JSON, cut off where the limit was reached."""

    name: str
    arguments: str = ""


class ToolCall(BaseModel):
    """A call that the model asks for."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(BaseModel):
    """The answer of a chat."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    annotations: list[None] = []
    tool_calls: Annotated[list[ToolCall] | None, _if_there] = None


class ChatChoice(BaseModel):
    """One answer of a chat."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: ChatFinishReason
    cartridges: OptionalCartridges = None
    telemetry: OptionalTelemetry = None


class ChatCompletion(Envelope):
    """Answer of `POST /v1/chat/completions`."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: Usage


class ToolCallDelta(BaseModel):
    """The next piece of a call; the first has its id, type and name."""

    index: int
    id: Annotated[str | None, _if_there] = None
    type: Annotated[Literal["function"] | None, _if_there] = None
    function: dict[Literal["name", "arguments"], str]


Delta = dict[Literal["role", "content", "tool_calls"], str | list[ToolCallDelta]]


class ChatChunkChoice(BaseModel):
    """The next piece of a choice; `delta` is {} in the last."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: ChatFinishReason | None = None
    cartridges: OptionalCartridges = None
    telemetry: OptionalTelemetry = None


class ChatChunk(Envelope):
    """Chunk of a streamed chat answer."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChatChunkChoice]
    usage: Usage | None


class CartridgeCard(BaseModel):
    """What a model card says of its cartridge."""

    id: str
    alpha: float
    default_alpha: float
    hash: str
    description: str


class ModelCard(BaseModel):
    """An entry of `GET /v1/models`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["llamacart"] = "llamacart"
    root: str
    parent: str | None
    n_ctx: int
    max_model_len: int
    chat_template: str
    cartridges: list[CartridgeCard]


class ModelList(BaseModel):
    """Answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Tokens(BaseModel):
    """Answer of `POST /tokenize`."""

    tokens: list[int]
    count: int
    max_model_len: int


class TokenizerInfo(BaseModel):
    """Answer of `GET /tokenizer_info`, vLLM's, by which lm-eval finds out how to tokenize."""

    bos_token: str | None
    eos_token: str | None
    chat_template: str
    model_max_length: int


class Text(BaseModel):
    """Answer of `POST /detokenize`, under llama-server's name and vLLM's."""

    content: str
    prompt: str


class Status(BaseModel):
    """Answer of `GET /health` and `GET /ready`."""

    status: Literal["ok"] = "ok"
