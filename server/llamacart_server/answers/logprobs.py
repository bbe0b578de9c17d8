"""Log-probabilities as clients see them: OpenAI's chat shape, its legacy shape, and echoes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from pydantic import BaseModel

from llamacart_server.answers.text import TextStream

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

    from llamacart.values.logprobs import TokenLogprobs
    from llamacart.values.tokenizer import Tokenizer

_FLOOR = -9999.0
"""What OpenAI gives for −∞, which JSON does not have."""


@dataclass(frozen=True)
class PlacedLogprobs:
    """Log-probabilities of a generated token.

    Attributes:
        start: Characters of the choice's text before the token's own.
        value: The log-probabilities.
        ends: Whether the token ended the generation and is no part of its text.
    """

    start: int
    value: TokenLogprobs
    ends: bool = False


class Placed(Protocol):
    """What belongs to a generated token."""

    @property
    def start(self) -> int:
        """Characters of the choice's text before the token's own."""
        ...


P = TypeVar("P", bound=Placed)


class HeldBack(Generic[P]):
    """Holds back what belongs to tokens until their text is sent."""

    def __init__(self) -> None:
        self._waiting: list[P] = []

    def add(self, placed: P) -> None:
        """Take what belongs to the next token."""
        self._waiting.append(placed)

    def take(self, n_sent: int | None) -> tuple[P, ...]:
        """What belongs to tokens that begin before character `n_sent`; None means to all."""
        out = self._waiting if n_sent is None else [p for p in self._waiting if p.start < n_sent]
        self._waiting = self._waiting[len(out) :]
        return tuple(out)


# --- chat ----------------------------------------------------------------------------------------


class ChatTopLogprob(BaseModel):
    """A token that was likely at some place."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(ChatTopLogprob):
    """A token of the answer: `logprob` is of the model's own distribution, before sampling."""

    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(BaseModel):
    """`logprobs` of a chat choice."""

    content: list[ChatTokenLogprob]
    refusal: None = None

    @classmethod
    def of(cls, placed: Iterable[PlacedLogprobs], tokenizer: Tokenizer) -> Self:
        """Those of tokens of the text."""

        def entry(token: int, logprob: float) -> dict[str, object]:
            raw = tokenizer.token_bytes(token, special=True)
            return {"token": token_name(raw), "logprob": max(logprob, _FLOOR), "bytes": list(raw)}

        content = [
            ChatTokenLogprob.model_validate(
                {
                    **entry(p.value.token, p.value.logprob),
                    "top_logprobs": [entry(*pair) for pair in p.value.top],
                }
            )
            for p in placed
            if not p.ends
        ]
        return cls(content=content)


# --- completions ---------------------------------------------------------------------------------


class CompletionLogprobs(BaseModel):
    """`logprobs` of a completion: parallel lists with one entry a token.

    They are of the model's own distribution, before sampling. The token that ended the
    generation is listed too. `top_logprobs` holds the token itself beside the likeliest; the first
    token of an echoed prompt has neither, since nothing comes before it.
    """

    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []
    text_offset: list[int] = []

    def add(
        self, token: int, offset: int, value: TokenLogprobs | None, tokenizer: Tokenizer
    ) -> None:
        """Append a token at a character of the text."""
        name = token_name(tokenizer.token_bytes(token, special=True))
        self.tokens.append(name)
        self.text_offset.append(offset)
        if value is None:
            self.token_logprobs.append(None)
            self.top_logprobs.append(None)
            return
        top: dict[str, float] = {}
        for other, logprob in (*value.top, (token, value.logprob)):
            # Tokens may share a name; the likelier one comes first.
            other_name = token_name(tokenizer.token_bytes(other, special=True))
            top.setdefault(other_name, max(logprob, _FLOOR))
        self.token_logprobs.append(max(value.logprob, _FLOOR))
        self.top_logprobs.append(top)


@dataclass(frozen=True)
class Echo:
    """A prompt that is repeated before its completion.

    Attributes:
        text: As the client wrote it; the text of its tokens where it gave those, or wrote a lone
            surrogate, which no answer can hold.
        tokens: Token ids.
        offsets: Characters of `text` before each.
    """

    text: str
    tokens: tuple[int, ...]
    offsets: tuple[int, ...]

    @classmethod
    def of(cls, prompt: str | Sequence[int], tokens: Sequence[int], tokenizer: Tokenizer) -> Self:
        """The echo of a prompt that became `tokens`, at least one."""
        stream = TextStream()
        text = ""
        offsets = []
        for i, token in enumerate(tokens):
            offsets.append(stream.n_decoded)
            raw = tokenizer.token_bytes(token, special=True)
            # The beginning of sequence that the tokeniser added is not in the client's text.
            added = i == 0 and not tokenizer.token_bytes(token) and isinstance(prompt, str)
            if not (added and not str(prompt).startswith(token_name(raw))):
                text += stream.push(raw)
        text += stream.finish()
        if isinstance(prompt, str) and not _LONE_SURROGATE.search(prompt):
            text = prompt
        return cls(text, tuple(tokens), tuple(min(offset, len(text)) for offset in offsets))

    def logprobs(self, scores: Sequence[TokenLogprobs], tokenizer: Tokenizer) -> CompletionLogprobs:
        """Those of the prompt, from `scores` of all its tokens but the first."""
        out = CompletionLogprobs()
        for token, offset, value in zip(self.tokens, self.offsets, (None, *scores), strict=True):
            out.add(token, offset, value, tokenizer)
        return out


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def token_name(raw: bytes) -> str:
    r"""A token's text; one that is part of a character is written `bytes:\xe2\x82`."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
