"""The base model as the HTTP layer sees it: names, tokens, chat template."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from llamacart.errors import InputError
from llamacart_server.templates import choose_template

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart.grammar import Grammars
    from llamacart.model import Model
    from llamacart_server.templates import ChatTemplate


class Tokenizer(Protocol):
    """From text to tokens and back; `llamacart.model.Model` has it."""

    @property
    def grammars(self) -> Grammars:
        """Compiles grammars for its tokens."""
        ...

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids of `text`."""
        ...

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Text of `tokens`."""
        ...

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        """The bytes a token stands for; none for a control token unless `special`."""
        ...

    def check_tokens(self, tokens: Sequence[int]) -> None:
        """Raise `InputError` unless every id is in the vocabulary."""
        ...


@dataclass(frozen=True)
class ServedModel:
    """What is served.

    Attributes:
        id: Id of the base model, e.g. `gemma-3-270m`.
        aliases: Other names that requests may use; not listed.
        n_ctx: Most tokens of prompt and answer together.
        tokenizer: The model's vocabulary.
        template: Its chat template.
        created: When it was loaded, Unix time.
    """

    id: str
    aliases: tuple[str, ...]
    n_ctx: int
    tokenizer: Tokenizer
    template: ChatTemplate
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def names(self) -> tuple[str, ...]:
        """All names that requests may use for the base."""
        return (self.id, *self.aliases)


def slug(name: str) -> str:
    """A model id from a model's name: `Gemma 3 270m` becomes `gemma-3-270m`."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "model"


def describe(model: Model, n_ctx: int, chat_template: str | None = None) -> ServedModel:
    """What is served, read from a loaded model.

    Args:
        model: The model; what it was loaded as (`demo`, a path) becomes an alias.
        n_ctx: Most tokens of prompt and answer together.
        chat_template: A file or the name of a builtin one; None means the model's own.

    Raises:
        InputError: That chat template cannot be used.
    """
    with contextlib.suppress(InputError):  # of a vocabulary without an end, as requests are told
        _ = model.grammars  # now: it would take the first request that needs them a second or two
    return ServedModel(
        id=slug(model.name),
        aliases=(model.spec,),
        n_ctx=n_ctx,
        tokenizer=model,
        template=choose_template(model, chat_template),
    )
