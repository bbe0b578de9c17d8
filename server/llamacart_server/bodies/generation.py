"""Request bodies: every field that the server knows, declared once.

Null means absent. A field of the OpenAI protocol that would change the answer and is not
supported is declared too, with `Only`: it is refused unless its value asks for nothing. What
becomes of fields that are not declared is said in `foreign`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from llamacart.values.sampling import SEED_LIMIT, SamplingParams
from llamacart_server.bodies.examples import CHATS, COMPLETIONS
from llamacart_server.bodies.fields import (
    MAX_TOP_LOGPROBS,
    Body,
    Empty,
    Flag,
    Number,
    Off,
    Only,
    WholeNumber,
)
from llamacart_server.bodies.foreign import refusal_in_request
from llamacart_server.bodies.formats import ResponseFormat, StructuredOutputs
from llamacart_server.bodies.tools import PastCall, Tool, ToolChoice
from llamacart_server.engine.request import ApplyTo
from llamacart_server.library.selection import Choice, SteeringFields

MAX_STOPS = 16

TokenId = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
TopCount = Annotated[int, Field(strict=True, ge=0, le=MAX_TOP_LOGPROBS)]
StopString = Annotated[str, Field(min_length=1)]


class CartridgeField(Body):
    """One item of `cartridges`."""

    id: str
    alpha: Number | None = None
    apply_to: ApplyTo | None = None
    when: list[str] | None = None


class StreamOptions(Body):
    """`stream_options`."""

    include_usage: Flag | None = None
    include_obfuscation: Off = None
    continuous_usage_stats: Off = None


TextOrTokens = str | list[str] | list[TokenId] | list[list[TokenId]]
"""One text, given as such or as tokens, or several."""


def one_by_one(given: TextOrTokens) -> list[str | list[int]]:
    """The texts one by one, each as text or as tokens."""
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        return [given]
    return list(given)  # type: ignore[arg-type]


class SteeredBody(Body):
    """What every body shares that names a model and cartridges."""

    model: str
    cartridges: list[CartridgeField] | None = None
    cartridge: str | None = None
    alpha: Number | None = None

    @classmethod
    def refusal(cls, name: str, given: dict[str, Any], known: Collection[str]) -> str | None:
        """See `Body`; other servers' fields are known."""
        return refusal_in_request(name, given, known, cls.harmless)

    @property
    def steering(self) -> SteeringFields:
        """The fields that choose cartridges."""
        items = self.cartridges
        choices = None
        if items is not None:
            choices = tuple(
                Choice(
                    item.id,
                    item.alpha,
                    item.apply_to,
                    f"cartridges[{i}]",
                    None if item.when is None else tuple(item.when),
                )
                for i, item in enumerate(items)
            )
        return SteeringFields(choices, self.cartridge, self.alpha)


class SampledBody(SteeredBody):
    """What every body shares that asks for text: how its tokens are chosen and sent."""

    temperature: Annotated[Number, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    top_k: Annotated[WholeNumber, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        dict[Annotated[int, Field(ge=0, lt=2**31)], Annotated[Number, Field(ge=-100, le=100)]]
        | None
    ) = None
    seed: WholeNumber | None = None
    ignore_eos: Flag | None = None
    telemetry: Flag | Literal["tokens"] | None = Field(
        None,
        description="Report how strong the steering was, layer by layer; `tokens`: also at each "
        "generated token, in streams with the piece that the token begins in.",
    )
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    grammar: Empty = None
    guided_regex: Empty = None
    guided_choice: Empty = None
    guided_grammar: Empty = None
    lora: Empty = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def sampling(self) -> SamplingParams:
        """How tokens are to be chosen; what is absent is OpenAI's default."""
        given: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k is None else max(self.top_k, 0),
            "min_p": self.min_p,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": tuple(self.logit_bias.items()) if self.logit_bias else None,
            "seed": _fold_seed(self.seed),
        }
        return SamplingParams(**{k: v for k, v in given.items() if v is not None})


class GenerationBody(SampledBody):
    """What completions and chat completions share."""

    max_tokens: Annotated[WholeNumber, Field(ge=1)] | None = None
    compare: Flag | Annotated[list[Number], Field(min_length=1)] | None = Field(
        None,
        description="Answer several times from one batch and one seed; each choice says which "
        "cartridges act on it. true: choice 0 without the cartridges, choice 1 with them. A list: "
        "one choice for each α in it, at which the one cartridge that is named acts.",
    )
    n: Annotated[int, Field(strict=True, ge=1)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    json_schema: dict[str, Any] | None = None

    @property
    def token_limit(self) -> int | None:
        """Most tokens that the client wants."""
        return self.max_tokens

    @property
    def n_top_logprobs(self) -> int | None:
        """How many likely tokens are to be reported beside each; None where nothing is."""
        return None

    @property
    def scores_prompt(self) -> bool:
        """Whether log-probabilities of the prompt are wanted too."""
        return False

    @property
    def n_choices(self) -> int:
        """Choices for each prompt."""
        if isinstance(self.compare, list):
            return len(self.compare)
        return 2 if self.compare else self.n or 1


def _fold_seed(seed: int | None) -> int | None:
    """OpenAI's seeds have 64 bits, llama.cpp's 32, of which the last means random, as -1 does."""
    return None if seed is None or seed == -1 else seed % SEED_LIMIT


class CompletionBody(GenerationBody):
    """Body of `POST /v1/completions`."""

    model_config = ConfigDict(json_schema_extra={"examples": COMPLETIONS})

    prompt: TextOrTokens

    max_tokens: Annotated[WholeNumber, Field(ge=0)] | None = None
    best_of: Annotated[int, Field(strict=True, ge=1)] | None = None
    echo: Flag | None = None
    logprobs: TopCount | None = Field(
        None,
        description="Report each token's log-probability and this many of the likeliest tokens; "
        "with `echo` those of the prompt too. They are of the model's own distribution, before "
        "bias, penalties, temperature and cuts.",
    )
    suffix: Empty = None
    add_special_tokens: Annotated[Any, Only(True)] = None

    @property
    def n_top_logprobs(self) -> int | None:
        """How many likely tokens are to be reported beside each; None where nothing is."""
        return self.logprobs

    @property
    def scores_prompt(self) -> bool:
        """Whether log-probabilities of the prompt are wanted too."""
        return bool(self.echo) and self.logprobs is not None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one, each text or tokens."""
        return one_by_one(self.prompt)


class TextPart(Body):
    """A part of a message."""

    harmless: ClassVar[Collection[str]] = ("annotations", "cache_control")

    type: Literal["text"]
    text: str


class Message(Body):
    """A chat message; what an answer said beside its text may be sent back with it."""

    harmless: ClassVar[Collection[str]] = (
        "annotations",
        "cache_control",
        "id",
        "name",
        "provider_specific_fields",
        "reasoning",
        "reasoning_content",
        "reasoning_details",
        "refusal",
        "thinking_blocks",
    )

    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: list[PastCall] | None = None
    content: str | list[TextPart] | None = Field(None, validate_default=True)
    tool_call_id: str | None = None
    function_call: Empty = None

    @field_validator("tool_calls")
    @classmethod
    def _only_of_the_assistant(cls, value: object, info: ValidationInfo) -> object:
        if value and info.data.get("role") != "assistant":
            raise ValueError("only an assistant's message can have it")
        return value

    @field_validator("content")
    @classmethod
    def _needed_without_calls(cls, value: object, info: ValidationInfo) -> object:
        if value is None and not info.data.get("tool_calls"):
            raise PydanticCustomError("missing", "Field required")
        return value

    @property
    def text(self) -> str:
        """The content, its parts joined by newlines."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or ())


class ChatBody(GenerationBody):
    """Body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(json_schema_extra={"examples": CHATS})

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[WholeNumber, Field(ge=1)] | None = None

    logprobs: Flag | None = Field(
        None,
        description="Report each token's log-probability in the model's own distribution, before "
        "bias, penalties, temperature and cuts.",
    )
    top_logprobs: TopCount | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: Flag | None = None
    functions: Empty = None
    function_call: Annotated[Any, Only("none")] = None
    modalities: Annotated[Any, Only(["text"])] = None
    audio: Empty = None
    web_search_options: Annotated[Any, Only()] = None
    chat_template: Empty = None
    chat_template_kwargs: Empty = None
    add_generation_prompt: Annotated[Any, Only(True)] = None
    continue_final_message: Off = None
    add_special_tokens: Off = None
    echo: Off = None

    @property
    def token_limit(self) -> int | None:
        """`max_completion_tokens`, or its older name."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def n_top_logprobs(self) -> int | None:
        """How many likely tokens are to be reported beside each; None where nothing is."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TokenizeBody(Body):
    """Body of `POST /tokenize`: `content` as llama-server has it, `prompt` or a chat as vLLM."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"content": "Hello", "add_special": True},
                {"prompt": "Hello", "add_special_tokens": False},
                {"messages": [{"role": "user", "content": "Hello"}]},
            ]
        }
    )

    harmless: ClassVar[Collection[str]] = ("model",)

    content: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    add_generation_prompt: Annotated[Any, Only(True)] = None
    add_special: Flag | None = None
    add_special_tokens: Flag | None = None
    parse_special: Flag | None = None
    with_pieces: Off = None
    return_token_strs: Off = None


class DetokenizeBody(Body):
    """Body of `POST /detokenize`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"tokens": [10, 11]}]})

    harmless: ClassVar[Collection[str]] = ("model",)

    tokens: list[TokenId]
