"""Chat messages to prompt tokens, through the model's own template or a known one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llamacart.errors import InputError, ModelError
from llamacart_server.builtin_templates import CHATML, GEMMA, LLAMA3
from llamacart_server.tool_messages import for_template, knows_tools, specs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Template

    from llamacart_server.schemas import Message
    from llamacart_server.tools import Tool

_BUILTIN = {"gemma": GEMMA, "llama3": LLAMA3, "chatml": CHATML}
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


class TemplateOwner(Vocabulary, Protocol):
    """What choosing a template needs of a model; `llamacart.model.Model` has it."""

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
    """A template that is ready to render.

    Attributes:
        source: `gguf`, or `builtin:<name>` for a model without one.
        text: The Jinja source.
        bos: Text of the beginning-of-sequence token, may be empty.
        eos: Text of the end-of-sequence token, may be empty.
        stops: Strings that end an answer, for a model whose vocabulary has no token for it.

    Raises:
        ModelError: The source is not valid Jinja.
    """

    source: str
    text: str
    bos: str = ""
    eos: str = ""
    stops: tuple[str, ...] = ()
    _template: Template = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            template = _environment().from_string(self.text)
        except TemplateError as error:
            raise ModelError(f"chat template ({self.source}) is not valid: {error}") from error
        object.__setattr__(self, "_template", template)

    def render(self, messages: Sequence[Any], tools: Sequence[Any] = ()) -> str:
        """The prompt text, up to where the assistant's answer begins.

        Args:
            messages: As Hugging Face's templates take them.
            tools: Likewise; only for a template that knows what to do with them.

        Raises:
            InputError: The template refuses the messages, e.g. roles out of turn.
        """
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=True,
                bos_token=self.bos,
                eos_token=self.eos,
                tools=list(tools) or None,
                documents=None,
            )
        # A template is a program that came with the model: it can fail in any way, on
        # input that only it knows to be wrong.
        except Exception as error:
            raise InputError(
                f"the chat template ({self.source}) refuses the messages: {error}",
                param="messages",
            ) from error

    def tokens(
        self, messages: Sequence[Message], vocabulary: Vocabulary, tools: Sequence[Tool] = ()
    ) -> list[int]:
        """Prompt tokens of a chat.

        Control tokens come from the template alone: text of a message that spells one
        (`<end_of_turn>`) is tokenised as plain text, so that nobody speaks in another role.
        """
        native = knows_tools(self.text)
        given = [for_template(messages, tools, native=native), specs(tools) if native else []]
        fence = _unused_pair([json.dumps(given, ensure_ascii=False)])
        rendered = self.render(*_fenced(given, fence, vocabulary))
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


def choose_template(model: TemplateOwner) -> ChatTemplate:
    """The template in the model's file, else the known one of its family.

    The family is told by the architecture (Gemma) or by the turn markers that the
    vocabulary has; a model with none of them gets ChatML as plain text.
    """
    bos, eos = (
        model.token_bytes(t, special=True).decode("utf-8", "replace") if t >= 0 else ""
        for t in (model.bos_token, model.eos_token)
    )
    if model.chat_template:
        return ChatTemplate("gguf", model.chat_template, bos, eos)

    def has(marker: str) -> bool:
        return len(model.tokenize(marker, add_special=False, parse_special=True)) == 1

    family = "gemma" if model.architecture.startswith("gemma") else "chatml"
    if family != "gemma":
        family = next((f for f, (start, _) in _MARKERS.items() if has(start)), family)
    end = _MARKERS[family][1]
    stops = () if has(end) else (end,)
    return ChatTemplate(f"builtin:{family}", _BUILTIN[family], bos, eos, stops)


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment that Hugging Face's templates are written for, sandboxed."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    # Jinja's own escapes <, > and & for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _unused_pair(texts: Sequence[str]) -> tuple[str, str]:
    """Two characters for private use that are in no text."""
    used = set().union(*texts)
    free = (c for c in map(chr, range(0xF0000, 0xFFFFE)) if c not in used)
    return next(free), next(free)
