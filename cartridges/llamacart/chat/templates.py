"""Chat messages to prompt tokens, through the model's own template or a known one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jinja2 import TemplateSyntaxError

from llamacart.chat.builtin_templates import CHATML, GEMMA, LLAMA3
from llamacart.chat.environment import ChatEnvironment, bounded_time, joined
from llamacart.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Template

BUILTIN = {"gemma": GEMMA, "llama3": LLAMA3, "chatml": CHATML}
"""Templates of known families by name."""

_MARKERS = {
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "llama3": ("<|start_header_id|>", "<|eot_id|>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
}


class Vocabulary(Protocol):
    """What tokenising a chat needs of a model."""

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids of `text`."""
        ...

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        """The bytes a token stands for; none for a control token unless `special`."""
        ...


class EndingVocabulary(Vocabulary, Protocol):
    """What closing an answer's turn needs of a model."""

    def is_end_of_generation(self, token: int) -> bool:
        """Whether `token` ends a generation."""
        ...


class TemplateOwner(Vocabulary, Protocol):
    """What choosing a template needs of a model; `llamacart.llama.model.Model` has it."""

    @property
    def architecture(self) -> str:
        """`general.architecture`."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The template in the file."""
        ...

    @property
    def bos_token(self) -> int:
        """Beginning of sequence, or -1."""
        ...

    @property
    def eos_token(self) -> int:
        """End of sequence, or -1."""
        ...


@dataclass(frozen=True)
class ChatTemplate:
    """A template that is ready to render, or one that cannot be used and says why.

    Attributes:
        source: `gguf`, `builtin:<name>`, or `file:<name>`.
        text: The Jinja source.
        bos: Text of the beginning-of-sequence token, may be empty.
        eos: Text of the end-of-sequence token, may be empty.
        stops: Strings that end an answer, for a model whose vocabulary has no token for it.
        problem: Why it cannot be used; None where it can.
    """

    source: str
    text: str
    bos: str = ""
    eos: str = ""
    stops: tuple[str, ...] = ()
    problem: str | None = field(init=False, default=None)
    _template: Template | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        try:
            template = ChatEnvironment().from_string(self.text)
        # Jinja's errors, and Python's for what Jinja makes of a template: it is a program that
        # came with the model, and nobody else has tried to compile it.
        except Exception as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, TemplateSyntaxError):
                reason = f"{error.message} (line {error.lineno})"
            object.__setattr__(self, "problem", reason)
        else:
            object.__setattr__(self, "_template", template)

    def render(
        self, messages: Sequence[Any], tools: Sequence[Any] = (), *, answered: bool = False
    ) -> str:
        """The prompt text, up to where the assistant's answer begins; in bounded time.

        Args:
            messages: As Hugging Face's templates take them.
            tools: Likewise; only for a template that knows what to do with them.
            answered: The last message is the assistant's answer, and the text goes on to the end
                of its turn.

        Raises:
            InputError: The template cannot be used, or refuses the messages, e.g. roles out of
                turn.
        """
        if self._template is None:
            raise InputError(
                f"the chat template ({self.source}) cannot be used: {self.problem}",
                param="messages",
            )
        try:
            with bounded_time():
                return joined(
                    self._template.generate(
                        messages=messages,
                        add_generation_prompt=not answered,
                        bos_token=self.bos,
                        eos_token=self.eos,
                        tools=list(tools) or None,
                        documents=None,
                    )
                )
        # It can fail in any way, on input that only it knows to be wrong.
        except Exception as error:
            raise InputError(
                f"the chat template ({self.source}) refuses the messages: {error}",
                param="messages",
            ) from error

    def tokens(
        self,
        messages: Sequence[Any],
        vocabulary: Vocabulary,
        tools: Sequence[Any] = (),
        *,
        answer: str = "",
        closing: str = "",
    ) -> list[int]:
        """Prompt tokens of a chat.

        Control tokens come from the template alone: text of a message that spells one
        (`<end_of_turn>`) is tokenised as plain text, so that nobody speaks in another role.

        Args:
            messages: As Hugging Face's templates take them.
            vocabulary: Of the model.
            tools: Likewise; only for a template that knows what to do with them.
            answer: What the assistant has written so far, right behind the prompt.
            closing: What the template writes behind that; see `end_of_turn`.

        Raises:
            InputError: As `render`.
        """
        fence = _unused_pair([json.dumps([*messages, *tools, answer, closing], ensure_ascii=False)])
        given, offered, written = _fenced([[*messages], [*tools], answer], fence, vocabulary)
        rendered = self.render(given, offered) + written + closing
        has_bos = bool(self.bos) and rendered.startswith(self.bos)
        opening, closing = fence
        out: list[int] = []
        # The group makes split return what was fenced as every second piece.
        pieces = re.split(f"{opening}([^{opening}{closing}]*){closing}", rendered)
        for i, piece in enumerate(pieces):
            # A template that cuts its messages can leave half a fence.
            text = piece.replace(opening, "").replace(closing, "")
            add_special = i == 0 and not has_bos
            out += vocabulary.tokenize(text, add_special=add_special, parse_special=i % 2 == 0)
        return out

    def end_of_turn(self, vocabulary: EndingVocabulary) -> str:
        """What closes an answer, up to the token at which generation ends.

        It is read off a chat that the template closes. Where no token of what it writes there
        ends a generation, it is all of that but the blanks at its end, and may be empty.

        Raises:
            InputError: As `render`.
        """
        mark = "\U000f0000"
        chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": mark}]
        _, found, text = self.render(chat, answered=True).rpartition(mark)
        if not found:
            return ""
        for token in vocabulary.tokenize(text, add_special=False, parse_special=True):
            if vocabulary.is_end_of_generation(token):
                name = vocabulary.token_bytes(token, special=True).decode("utf-8", "replace")
                return text[: text.index(name) + len(name)] if name in text else name
        return text.rstrip()


def fence_control_tokens(text: str, fence: tuple[str, str], vocabulary: Vocabulary) -> str:
    """Put the fence's two characters around all of `text` that would be read as control tokens."""
    plain = vocabulary.tokenize(text, add_special=False, parse_special=False)
    parsed = vocabulary.tokenize(text, add_special=False, parse_special=True)
    if plain == parsed:
        return text
    names = {
        vocabulary.token_bytes(token, special=True).decode("utf-8", "replace")
        for token in set(parsed)
        if not vocabulary.token_bytes(token)
    }
    # Longest first, as llama.cpp looks for them.
    pattern = "|".join(map(re.escape, sorted(filter(None, names), key=len, reverse=True)))
    opening, closing = fence
    return re.sub(pattern, lambda match: f"{opening}{match[0]}{closing}", text) if pattern else text


def _fenced(value: Any, fence: tuple[str, str], vocabulary: Vocabulary) -> Any:
    """`value` with every string in it fenced."""
    match value:
        case str():
            return fence_control_tokens(value, fence, vocabulary)
        case list():
            return [_fenced(item, fence, vocabulary) for item in value]
        case dict():
            return {
                _fenced(key, fence, vocabulary): _fenced(item, fence, vocabulary)
                for key, item in value.items()
            }
        case _:
            return value


def choose_template(model: TemplateOwner, wanted: str | None = None) -> ChatTemplate:
    """The template that is wanted, else the one in the model's file, else that of its family.

    The family is told by the architecture (Gemma) or by the turn markers that the
    vocabulary has; a model with none of them gets ChatML as plain text. One that is in the
    model's file and cannot be used is chosen all the same; its `problem` says why.

    Args:
        model: What it is for.
        wanted: A file, or the name of a builtin one.

    Raises:
        InputError: The wanted one cannot be read, or cannot be used.
    """
    bos, eos = (
        model.token_bytes(t, special=True).decode("utf-8", "replace") if t >= 0 else ""
        for t in (model.bos_token, model.eos_token)
    )
    if wanted is not None and wanted not in BUILTIN:
        return _from_file(Path(wanted), bos, eos)
    if wanted is None and model.chat_template:
        return ChatTemplate("gguf", model.chat_template, bos, eos)

    def has(marker: str) -> bool:
        return len(model.tokenize(marker, add_special=False, parse_special=True)) == 1

    family = wanted or ("gemma" if model.architecture.startswith("gemma") else "chatml")
    if wanted is None and family != "gemma":
        family = next((f for f, (start, _) in _MARKERS.items() if has(start)), family)
    end = _MARKERS[family][1]
    stops = () if has(end) else (end,)
    return ChatTemplate(f"builtin:{family}", BUILTIN[family], bos, eos, stops)


def _from_file(path: Path, bos: str, eos: str) -> ChatTemplate:
    try:
        text = path.expanduser().read_text("utf-8-sig")
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"chat_template has value {str(path)!r}: neither a file that can be read ({error}) "
            f"nor one of {', '.join(BUILTIN)}",
            param="chat_template",
        ) from None
    template = ChatTemplate(f"file:{path.name}", text, bos, eos)
    if template.problem is not None:
        raise InputError(
            f"chat_template has value {str(path)!r}: {template.problem}", param="chat_template"
        )
    return template


def _unused_pair(texts: Sequence[str]) -> tuple[str, str]:
    """Two characters for private use that are in no text."""
    used = set().union(*texts)
    free = (c for c in map(chr, range(0xF0000, 0xFFFFE)) if c not in used)
    return next(free), next(free)
