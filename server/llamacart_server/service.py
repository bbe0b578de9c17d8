"""What the generating routes share: from a checked body to an answer that runs."""

from __future__ import annotations

import logging
import secrets
import time
import uuid
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from llamacart.errors import InputError, NotFoundError, OverloadedError
from llamacart.machine.processors import choose_threads
from llamacart.values.sampling import SEED_LIMIT
from llamacart_server.answers.answer import Answer
from llamacart_server.answers.logprobs import Echo
from llamacart_server.bodies.answers import ActingCartridge, Usage
from llamacart_server.bodies.tools import CLOSING, OPENING
from llamacart_server.constraints.json_format import grammar_of
from llamacart_server.constraints.tools import tool_use
from llamacart_server.engine.request import GenerationRequest
from llamacart_server.library.selection import Selection, comparison, select
from llamacart_server.library.source import folder_of
from llamacart_server.library.store import CartridgeStore
from llamacart_server.logs import fields
from llamacart_server.middleware.lifecycle import Lifecycle
from llamacart_server.middleware.request_metrics import ObservedEngine, RequestMetrics
from llamacart_server.prompts.chat import chat_tokens
from llamacart_server.training.commands import Means
from llamacart_server.training.jobs import TrainingJobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamacart.json_grammar.grammar import Grammar
    from llamacart_server.bodies.generation import ChatBody, CompletionBody, GenerationBody
    from llamacart_server.engine.interface import EngineLike
    from llamacart_server.library.library import CartridgeLibrary, Snapshot
    from llamacart_server.served import ServedModel
    from llamacart_server.settings import ServeSettings

logger = logging.getLogger(__name__)

LOOKS = 8
"""How often a request's cartridges are looked up while they change under it."""


@dataclass(frozen=True)
class AnswerHead:
    """What every part of one answer begins with."""

    id: str
    created: int
    model: str
    cartridges: list[ActingCartridge]


@dataclass(frozen=True)
class Prepared:
    """A request that has been checked and tokenised, not yet submitted.

    Attributes:
        requests: One for each choice, those of one prompt side by side.
        stops: Strings that end a choice.
        selection: The cartridges it resolved to.
        resolved_in: Where they were looked up.
        resolve: Makes the same of another snapshot, without what is replaced below.
        n_per_prompt: Choices for each prompt.
        compared: What each of them resolved to, where that is not the same for all.
        echoes: What comes before the choices of each prompt, if that was asked for.
        has_tools: Whether the answer may hold calls.
    """

    requests: tuple[GenerationRequest, ...]
    stops: tuple[str, ...]
    selection: Selection
    resolved_in: Snapshot
    resolve: Callable[[Snapshot], Prepared]
    n_per_prompt: int = 1
    compared: tuple[Selection, ...] = ()
    echoes: tuple[Echo, ...] = ()
    has_tools: bool = False

    def acting(self, index: int) -> list[ActingCartridge] | None:
        """What acts on a choice, where that is not the same for all."""
        if not self.compared:
            return None
        return ActingCartridge.list_of(self.compared[index % self.n_per_prompt])

    def echo(self, index: int) -> Echo | None:
        """What comes before a choice."""
        return self.echoes[index // self.n_per_prompt] if self.echoes else None


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
    def store(self) -> CartridgeStore:
        """What adds and removes cartridges."""
        return CartridgeStore(self.engine, self.library, folder_of(self.settings.cartridges))

    @cached_property
    def training(self) -> TrainingJobs:
        """Cartridges that are being made."""
        settings = self.settings
        threads = max(1, choose_threads(settings.threads) // 2)
        means = Means(settings.model, threads, settings.gpu_layers, settings.flash_attention)
        return TrainingJobs(self.store, means)

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
        n = body.n or 1
        if body.best_of not in (None, n):
            raise InputError(
                f"best_of has value {body.best_of}; only n = {n} is supported",
                param="best_of",
            )
        if body.max_tokens == 0 and not body.scores_prompt:
            raise InputError(
                "max_tokens has value 0; without echo and logprobs at least 1 is needed",
                param="max_tokens",
            )
        tokens = [self._prompt_tokens(prompt) for prompt in prompts]
        prepared = self._prepare(body, tokens, self.settings.default_max_tokens, ())
        if not body.echo:
            return prepared
        pairs = zip(prompts, tokens, strict=True)
        echoes = (Echo.of(prompt, ids, self.model.tokenizer) for prompt, ids in pairs)
        return replace(prepared, echoes=tuple(echoes))

    def prepare_chat(self, body: ChatBody) -> Prepared:
        """Check a chat and tokenise it; slow for long ones, so not for the loop."""
        if body.top_logprobs and not body.logprobs:
            raise InputError(
                f"top_logprobs has value {body.top_logprobs}; it needs logprobs to be true",
                param="top_logprobs",
            )
        use = tool_use(body, self._markers, self.model.tokenizer)
        template = self.model.template
        tools = use.tools if use else ()
        tokens = chat_tokens(template, body.messages, self.model.tokenizer, tools)
        limit = self.settings.default_max_tokens_chat
        prepared = self._prepare(
            body, [tokens], limit, template.stops, tool_grammar=use.grammar if use else None
        )
        return replace(prepared, has_tools=use is not None)

    def submit(self, prepared: Prepared) -> tuple[Answer, Prepared]:
        """Start generating; to be called in the event loop.

        Cartridges may have been replaced or removed while the request was prepared. It is then
        resolved again, by id; once it is in the engine, what it uses stays there to its end.

        Returns:
            What runs, and the request as it was resolved.

        Raises:
            NotFoundError: A cartridge has been removed.
        """
        if self.settings.log_prompts:
            for request in prepared.requests[:: prepared.n_per_prompt]:
                text = self.model.tokenizer.detokenize(request.prompt, special=True)
                logger.info("prompt", extra=fields(prompt=text))
        for _ in range(LOOKS):
            snapshot = self.library.snapshot
            if snapshot is not prepared.resolved_in:
                given = prepared
                prepared = replace(
                    given.resolve(snapshot), echoes=given.echoes, has_tools=given.has_tools
                )
            try:
                return self._answer(prepared), prepared
            except NotFoundError:
                if self.library.snapshot is snapshot:  # no change came between
                    raise
        raise OverloadedError("cartridges change faster than a request can be begun")

    def _answer(self, prepared: Prepared) -> Answer:
        return Answer(
            ObservedEngine(self.engine, self.metrics),
            prepared.requests,
            self.model.tokenizer,
            prepared.stops,
            prepared.n_per_prompt,
            frozenset(self._markers.values()) if prepared.has_tools else frozenset(),
            self.lifecycle.answering,
        )

    @cached_property
    def _markers(self) -> dict[str, int]:
        """Tokens that begin or end a call, where the vocabulary has control tokens for them."""
        tokenizer = self.model.tokenizer
        found = {}
        for mark in (OPENING, CLOSING):
            ids = tokenizer.tokenize(mark, add_special=False, parse_special=True)
            if len(ids) == 1 and not tokenizer.token_bytes(ids[0]):
                found[mark] = ids[0]
        return found

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
        tool_grammar: Grammar | None = None,
    ) -> Prepared:
        grammar = grammar_of(body, self.model.tokenizer)
        if grammar and tool_grammar:
            raise InputError("tools cannot be combined with a format of the answer", param="tools")
        self.check_tokens(list(body.logit_bias or ()), "logit_bias")
        if not all(prompts):
            raise InputError("a prompt has no tokens", param="prompt")
        if body.compare and body.n not in (None, 1):
            raise InputError(
                f"n has value {body.n}; a comparison has one choice of each kind", param="n"
            )
        n = body.n_choices
        limit = default_limit if body.token_limit is None else body.token_limit
        unsteered = GenerationRequest(
            prompt=(),
            max_tokens=min(limit, self.settings.max_tokens),
            sampling=replace(body.sampling, grammar=grammar or tool_grammar),
            ignore_eos=bool(body.ignore_eos),
            telemetry=bool(body.telemetry),
            token_doses=body.telemetry == "tokens",
            logprobs=body.n_top_logprobs,
            prompt_logprobs=body.scores_prompt,
        )
        stops = body.stops + template_stops

        def resolve(snapshot: Snapshot) -> Prepared:
            selection = select(body.model, body.steering, self.model.names, snapshot)
            compared = comparison(body.compare, selection)
            if compared:
                variants = _from_one_seed(unsteered, compared)
            else:
                variants = _seeded_apart(_steered(unsteered, selection), n)
            requests = tuple(
                replace(variant, prompt=tuple(tokens)) for tokens in prompts for variant in variants
            )
            return Prepared(requests, stops, selection, snapshot, resolve, n, compared=compared)

        if n * len(prompts) > self.settings.max_queued:
            raise InputError(
                f"{n} choices of {len(prompts)} prompts are wanted; at most "
                f"{self.settings.max_queued} choices are allowed in all",
                param="compare" if body.compare else "n",
            )
        return resolve(self.library.snapshot)


def _steered(request: GenerationRequest, selection: Selection) -> GenerationRequest:
    acting = selection.acting
    return replace(request, doses=acting, sample_dose=bool(acting))


def _from_one_seed(
    request: GenerationRequest, compared: Sequence[Selection]
) -> list[GenerationRequest]:
    """The request under each selection, with one seed."""
    sampling = request.sampling
    if sampling.seed is None:
        request = replace(request, sampling=replace(sampling, seed=secrets.randbelow(SEED_LIMIT)))
    return [_steered(request, selection) for selection in compared]


def _seeded_apart(request: GenerationRequest, n: int) -> list[GenerationRequest]:
    """The request `n` times, with seed, seed + 1, …, or each with a random one."""
    sampling, seed = request.sampling, request.sampling.seed
    if seed is None:
        return [request] * n
    seeds = ((seed + i) % SEED_LIMIT for i in range(n))
    return [replace(request, sampling=replace(sampling, seed=s)) for s in seeds]


def header(kind: str, selection: Selection) -> AnswerHead:
    """Head of a new answer.

    Args:
        kind: Prefix of its id, `cmpl` or `chatcmpl`.
        selection: What acts on it.
    """
    return AnswerHead(
        id=f"{kind}-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=selection.model_id,
        cartridges=ActingCartridge.list_of(selection),
    )


def usage_of(answer: Answer) -> Usage:
    """Tokens of an answer so far."""
    return Usage.of(answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens)
