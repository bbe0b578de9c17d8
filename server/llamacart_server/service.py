"""What the generating routes share: from a checked body to an answer that runs."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from llamacart.errors import InputError
from llamacart_server.answer import Answer
from llamacart_server.lifecycle import Lifecycle
from llamacart_server.logs import fields
from llamacart_server.request import GenerationRequest
from llamacart_server.request_metrics import ObservedEngine, RequestMetrics
from llamacart_server.responses import ActingCartridge, Usage
from llamacart_server.selection import Selection, select

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart_server.engine_api import EngineLike
    from llamacart_server.library import CartridgeLibrary
    from llamacart_server.schemas import ChatBody, CompletionBody, GenerationBody
    from llamacart_server.served import ServedModel
    from llamacart_server.settings import ServeSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Header:
    """What every part of one answer begins with."""

    id: str
    created: int
    model: str
    cartridges: list[ActingCartridge]


@dataclass(frozen=True)
class Prepared:
    """A request that has been checked and tokenised, not yet submitted.

    Attributes:
        requests: One for each choice.
        stops: Strings that end a choice.
        selection: The cartridges it resolved to.
    """

    requests: tuple[GenerationRequest, ...]
    stops: tuple[str, ...]
    selection: Selection


@dataclass(frozen=True)
class Service:
    """Built objects that the routes work with.

    Attributes:
        engine: Where generations run.
        library: The cartridges there are.
        model: The base model.
        settings: Limits and defaults.
        lifecycle: Whether requests are welcome, and for how long.
        registry: Of the app's metrics.
    """

    engine: EngineLike
    library: CartridgeLibrary
    model: ServedModel
    settings: ServeSettings
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    @cached_property
    def metrics(self) -> RequestMetrics:
        """What is counted of requests."""
        return RequestMetrics(self.registry)

    def prepare_completion(self, body: CompletionBody) -> Prepared:
        """Check a completion and tokenise its prompts; slow for long ones, so not for the loop."""
        prompts = body.prompts
        if not 1 <= len(prompts) <= self.settings.max_queued:
            raise InputError(
                f"prompt has {len(prompts)} items; 1 to {self.settings.max_queued} are allowed",
                param="prompt",
            )
        tokens = [self._prompt_tokens(prompt) for prompt in prompts]
        return self._prepare(body, tokens, self.settings.default_max_tokens, ())

    def prepare_chat(self, body: ChatBody) -> Prepared:
        """Check a chat and tokenise it; slow for long ones, so not for the loop."""
        template = self.model.template
        tokens = template.tokens(body.messages, self.model.tokenizer)
        limit = self.settings.default_max_tokens_chat
        return self._prepare(body, [tokens], limit, template.stops)

    def submit(self, prepared: Prepared) -> Answer:
        """Start generating; to be called in the event loop."""
        if self.settings.log_prompts:
            for request in prepared.requests:
                text = self.model.tokenizer.detokenize(request.prompt, special=True)
                logger.info("prompt", extra=fields(prompt=text))
        return Answer(
            ObservedEngine(self.engine, self.metrics),
            prepared.requests,
            self.model.tokenizer,
            prepared.stops,
            self.lifecycle.answering,
        )

    def _prompt_tokens(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenize_raw(prompt)
        self.check_tokens(prompt, "prompt")
        return prompt

    def tokenize_raw(self, text: str) -> list[int]:
        """Tokens of a prompt whose caller wrote all of it, turn markers and BOS included."""
        bos = self.model.template.bos
        has_bos = bool(bos) and text.startswith(bos)
        return self.model.tokenizer.tokenize(text, add_special=not has_bos, parse_special=True)

    def check_tokens(self, tokens: Sequence[int], param: str) -> None:
        """Raise `InputError` for the field `param` unless every id is in the vocabulary."""
        try:
            self.model.tokenizer.check_tokens(tokens)
        except InputError as error:
            raise InputError(f"{param}: {error.message}", param=param) from None

    def _prepare(
        self,
        body: GenerationBody,
        prompts: Sequence[Sequence[int]],
        default_limit: int,
        template_stops: tuple[str, ...],
    ) -> Prepared:
        selection = select(body.model, body.steering, self.model.names, self.library)
        self.check_tokens(list(body.logit_bias or ()), "logit_bias")
        if not all(prompts):
            raise InputError("a prompt has no tokens", param="prompt")
        request = GenerationRequest(
            prompt=(),
            max_tokens=min(body.token_limit or default_limit, self.settings.max_tokens),
            doses=selection.acting,
            sampling=body.sampling,
            ignore_eos=bool(body.ignore_eos),
            telemetry=bool(body.telemetry),
        )
        requests = tuple(replace(request, prompt=tuple(tokens)) for tokens in prompts)
        return Prepared(requests, body.stops + template_stops, selection)


def header(kind: str, selection: Selection) -> Header:
    """Head of a new answer.

    Args:
        kind: Prefix of its id, `cmpl` or `chatcmpl`.
        selection: What acts on it.
    """
    return Header(
        id=f"{kind}-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=selection.model_id,
        cartridges=ActingCartridge.list_of(selection),
    )


def usage_of(answer: Answer) -> Usage:
    """Tokens of an answer so far."""
    return Usage.of(answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens)
