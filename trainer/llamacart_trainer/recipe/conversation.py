"""Keys of a recipe that say in which form its texts are, and which prompt it distils."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

if TYPE_CHECKING:
    from typing import Self

BUILTIN = "builtin"
"""What a recipe says for texts that ship with the trainer, in place of a file of its own."""
BUILTIN_ENGLISH = "builtin-english"
"""The same for neutral texts with English prose among them."""

MAX_ANSWER_TOKENS = 1024

FACTS_DEFAULTS: dict[str, Any] = {
    "train": "facts.jsonl",
    "target": "object",
    "default_alpha": 1.0,
}
"""What a recipe of kind `facts` says where it says nothing else."""

OF_PROMPTS = (
    "prompt",
    "prompt_file",
    "examples",
    "questions",
    "answers",
    "answer_tokens",
    "emphasis",
)
"""Keys that mean something with `kind = "prompt"` alone."""
OF_PAIRS = ("train", "pairing")
"""Keys that mean something for pairs; `train` names the facts with `kind = "facts"` too."""
OF_TEXTS = ("generate_source", "generate_target", "capture")
"""Keys that mean something for pairs in `format = "text"` alone."""


class ConversationKeys(BaseModel):
    """The part of `Recipe` that is about conversations.

    Attributes:
        format: `text`: raw texts. `chat`: conversations in the model's own chat template.
        kind: `pairs`: the pairs of `train`. `prompt`: a prompt that the model itself answers
            behind, to be had without it; `target` is then `residual` by default. `facts`: the
            facts of `train`, to be said; `target` is then `object`.
        prompt: The prompt: a system text.
        prompt_file: The same as a file of text.
        examples: File of `{"role", "content"}`, a turn a line, that stand behind it.
        questions: File of `{"prompt"}`, the user messages that are answered; `builtin` stands for
            those of `builtin_questions`.
        answers: File of `{"prompt", "text", "ended"?}`: the answers, where the model has given
            them already.
        answer_tokens: Most tokens of an answer.
        emphasis: How much more a row of an answer counts where the prompt acts on it: an exponent,
            see `emphasise`; 0 lets all count once.
        user_turn: How a user's message is written in format `text`.
        assistant_turn: The same of an answer.
    """

    format: Literal["text", "chat"] = "text"
    kind: Literal["pairs", "prompt", "facts"] = "pairs"
    prompt: Annotated[str, Field(pattern=r"\S")] | None = None
    prompt_file: str | None = None
    examples: str | None = None
    questions: str = BUILTIN
    answers: str | None = None
    answer_tokens: Annotated[int, Field(ge=1, le=MAX_ANSWER_TOKENS)] = 64
    emphasis: Annotated[float, Field(ge=0, le=4)] = 0.0
    user_turn: str = "Question: {}\n"
    assistant_turn: str = "Answer: {}\n\n"

    @field_validator("user_turn", "assistant_turn")
    @classmethod
    def _holds_a_place(cls, form: str) -> str:
        if form.count("{}") != 1:
            raise ValueError("one {} is needed, where the message stands")
        return form

    @model_validator(mode="before")
    @classmethod
    def _aim_at_the_residual(cls, values: Any) -> Any:
        # What a prompt does arrives by attention: it stands in the residual stream.
        if isinstance(values, dict) and values.get("kind") == "prompt":
            return {"target": "residual"} | values
        if isinstance(values, dict) and values.get("kind") == "facts":
            return FACTS_DEFAULTS | values
        return values

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        unused = {
            "pairs": OF_PROMPTS,
            "prompt": (*OF_PAIRS, *OF_TEXTS),
            "facts": (*OF_PROMPTS, "pairing", *OF_TEXTS),
        }
        for key in unused[self.kind]:
            self._refuse(key, "kind", self.kind)
        for key in OF_TEXTS if self.format == "chat" else ():
            self._refuse(key, "format", self.format)
        for key in ("user_turn", "assistant_turn") if self.format == "chat" else ():
            self._refuse(key, "format", self.format)
        if self.prompt is not None and self.prompt_file is not None:
            raise ValueError("prompt and prompt_file are both given; keep one")
        return self

    def _refuse(self, key: str, by: str, value: str) -> None:
        # A value that is the default says nothing: a recipe that is dumped whole has them all.
        default = type(self).model_fields[key].get_default(call_default_factory=True)
        if getattr(self, key) != default:
            raise ValueError(f"{key} is given, but it has no meaning where {by} is {value!r}")
