"""One answer: its generations, submitted together, and the text they become."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llamacart.errors import EngineError
from llamacart_server.answers.doses import PlacedDoses
from llamacart_server.answers.logprobs import HeldBack, PlacedLogprobs
from llamacart_server.answers.text import TextStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from llamacart.values.logprobs import TokenLogprobs
    from llamacart.values.tokenizer import Tokenizer
    from llamacart_server.engine.interface import GenerationLike, Submitter
    from llamacart_server.engine.request import FinishReason, GenerationReport, GenerationRequest


@dataclass(frozen=True)
class Piece:
    """The next text of one choice.

    Attributes:
        index: Which choice.
        text: May be empty in the last piece only.
        finish_reason: Set in the last piece of a choice.
        report: What the engine has to say of the choice, in its last piece.
        logprobs: Of the tokens that begin in this piece, if they were asked for.
        doses: The same of what steered them.
    """

    index: int
    text: str
    finish_reason: FinishReason | None = None
    report: GenerationReport | None = None
    logprobs: tuple[PlacedLogprobs, ...] = ()
    doses: tuple[PlacedDoses, ...] = ()


class Answer:
    """Generations of one request, one for each choice.

    Args:
        engine: Where they run; made in the event loop that will `run` it.
        requests: What to generate.
        tokenizer: For the bytes of tokens.
        stops: Strings that end a choice.
        n_per_prompt: Choices that share a prompt, side by side in `requests`.
        shown: Control tokens whose names belong to the text.
        bounds: Makes what surrounds the making of the answer, and may end it by an error.

    Attributes:
        prompt_tokens: Tokens given, each prompt counted once.
        completion_tokens: Tokens generated so far, over all choices.

    Raises:
        InputError: The engine refuses a request; none runs.
        OverloadedError: The engine has no room; none runs.
    """

    def __init__(
        self,
        engine: Submitter,
        requests: Sequence[GenerationRequest],
        tokenizer: Tokenizer,
        stops: Sequence[str],
        n_per_prompt: int = 1,
        shown: frozenset[int] = frozenset(),
        bounds: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        self.prompt_tokens = sum(len(request.prompt) for request in requests[::n_per_prompt])
        self.completion_tokens = 0
        self._tokenizer = tokenizer
        self._stops = stops
        self._shown = shown
        self._n_per_prompt = n_per_prompt
        self._bounds = bounds
        self._requests = requests
        self._generations: list[GenerationLike] = []
        try:
            for request in requests:
                self._generations.append(engine.submit(request))
        except BaseException:
            self.cancel()
            raise

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that the prefix cache had for the first choice of each prompt."""
        firsts = self._generations[:: self._n_per_prompt]
        return sum(generation.report.cached_tokens for generation in firsts)

    def prompt_logprobs(self, index: int) -> tuple[TokenLogprobs, ...]:
        """Of the prompt tokens of a choice but the first; known with the choice's first piece."""
        return self._generations[index].report.prompt_logprobs

    def cancel(self) -> None:
        """Stop what still runs."""
        for generation in self._generations:
            generation.cancel()

    async def run(self, emit: Callable[[Piece], Awaitable[None]]) -> None:
        """Hand over the pieces of all choices as they come; the choices interleave.

        Raises:
            LlamacartError: A generation failed, or a bound was reached; the others have been
                stopped.
        """
        async with self._bounds():
            await self._run_choices(emit)

    async def _run_choices(self, emit: Callable[[Piece], Awaitable[None]]) -> None:
        tasks = [
            asyncio.ensure_future(self._run_choice(i, emit)) for i in range(len(self._generations))
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            self.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def collect(self) -> list[Piece]:
        """Run to the end; the whole text of each choice as one piece."""
        pieces: list[list[Piece]] = [[] for _ in self._generations]

        async def keep(piece: Piece) -> None:
            pieces[piece.index].append(piece)

        await self.run(keep)
        return [
            replace(
                parts[-1],
                text="".join(part.text for part in parts),
                logprobs=tuple(placed for part in parts for placed in part.logprobs),
                doses=tuple(placed for part in parts for placed in part.doses),
            )
            for parts in pieces
        ]

    async def _run_choice(self, index: int, emit: Callable[[Piece], Awaitable[None]]) -> None:
        stream = TextStream(self._stops)
        queue, n_sent = HeldBack[PlacedLogprobs](), 0
        doses = HeldBack[PlacedDoses]()
        generation = self._generations[index]
        wants_doses = self._requests[index].token_doses
        async for event in generation:
            text = ""
            if event.logprobs is not None:
                ends = event.token is None
                queue.add(PlacedLogprobs(stream.n_decoded, event.logprobs, ends))
            if event.token is not None:
                self.completion_tokens += 1
                if wants_doses:
                    doses.add(PlacedDoses(stream.n_decoded, event.token, event.doses))
                special = event.token in self._shown
                text = stream.push(self._tokenizer.token_bytes(event.token, special=special))
            if event.finish_reason is not None and not stream.stopped:
                text += stream.finish()
            n_sent += len(text)
            reason = "stop" if stream.stopped else event.finish_reason
            is_whole = reason is not None and not stream.stopped
            n_told = None if is_whole else n_sent
            placed = queue.take(n_told), doses.take(n_told)
            if reason is not None:
                generation.finish()
                await emit(Piece(index, text, reason, generation.report, *placed))
                return
            if text:
                await emit(Piece(index, text, None, None, *placed))
        raise EngineError("the generation ended without a reason")
