"""The base model as the HTTP layer sees it: names, tokens, chat template."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from llamacart.chat.templates import BUILTIN, TemplateOwner, choose_template
from llamacart.errors import InputError
from llamacart.values.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llamacart.chat.templates import ChatTemplate

logger = logging.getLogger(__name__)


class LoadedModel(Tokenizer, TemplateOwner, Protocol):
    """What is read of a model that is to be served; `llamacart.llama.model.Model` has it."""

    spec: str

    @property
    def name(self) -> str:
        """Its name."""
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
        weights_hash: Tells its weights from those of another fine-tune; empty where unknown.
        created: When it was loaded, Unix time.
    """

    id: str
    aliases: tuple[str, ...]
    n_ctx: int
    tokenizer: Tokenizer
    template: ChatTemplate
    weights_hash: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def names(self) -> tuple[str, ...]:
        """All names that requests may use for the base."""
        return (self.id, *self.aliases)


def slug(name: str) -> str:
    """A model id from a model's name: `Gemma 3 270m` becomes `gemma-3-270m`."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "model"


def describe(model: LoadedModel, n_ctx: int, chat_template: str | None = None) -> ServedModel:
    """What is served, read from a loaded model.

    Args:
        model: The model; what it was loaded as (`demo`, a path) becomes an alias.
        n_ctx: Most tokens of prompt and answer together.
        chat_template: A file or the name of a builtin one; None means the model's own.

    Raises:
        InputError: That chat template cannot be used.
    """
    template = choose_template(model, chat_template)
    if template.problem is not None:
        logger.warning(
            "the model's chat template cannot be used: %s; chats are refused, unless "
            "--chat-template names another (a file, or %s)",
            template.problem,
            ", ".join(BUILTIN),
        )
    with contextlib.suppress(InputError):  # of a vocabulary without an end, as requests are told
        _ = model.grammars  # now: it would take the first request that needs them a second or two
    return ServedModel(
        id=slug(model.name),
        aliases=(model.spec,),
        n_ctx=n_ctx,
        tokenizer=model,
        template=template,
    )
