"""What the HTTP layer needs of an engine; `llamacart_server.engine.engine.Engine` has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from concurrent.futures import Future

    from llamacart.cartridge import Cartridge
    from llamacart.errors import LlamacartError
    from llamacart_server.engine.jobs import Work
    from llamacart_server.engine.request import GenerationReport, GenerationRequest, TokenEvent
    from llamacart_server.engine.stats import EngineStats

T = TypeVar("T")


class GenerationLike(Protocol):
    """A stream of tokens; iterating raises the error that ended the generation, if one did."""

    def __aiter__(self) -> AsyncIterator[TokenEvent]:
        """Yield events as they come; the last has a finish reason."""
        ...

    @property
    def report(self) -> GenerationReport:
        """What is known of it so far; final with its last event."""
        ...

    def cancel(self) -> None:
        """Stop it; a second call, or one after its end, does nothing."""
        ...

    def finish(self) -> None:
        """Stop it because the caller has what it wants: it counts as finished."""
        ...


class Submitter(Protocol):
    """Takes requests."""

    def submit(self, request: GenerationRequest) -> GenerationLike:
        """Queue a request.

        Raises:
            InputError: The request is not valid for the model or does not fit its context.
            OverloadedError: The queue is full.
        """
        ...


class EngineLike(Submitter, Protocol):
    """Takes requests, and says what it is doing."""

    def load(self, cartridge: Cartridge) -> None:
        """Make a cartridge usable, again doing nothing; blocks until it is.

        Raises:
            CartridgeMismatchError: Made for another model.
            OverloadedError: The engine has stopped.
        """
        ...

    def unload(self, cartridge: Cartridge) -> None:
        """Refuse a cartridge, told apart by content, to new requests; open ones keep it. Blocks.

        Raises:
            NotFoundError: It is not loaded.
            OverloadedError: The engine has stopped.
        """
        ...

    @property
    def failure(self) -> LlamacartError | None:
        """Why it has failed for good; None where it has not."""
        ...

    def begin(self, work: Work[T]) -> Future[T]:
        """Have `work` done step by step where nothing else computes; cancelling gives it up.

        Raises:
            OverloadedError: The engine has stopped.
        """
        ...

    def stats(self) -> EngineStats:
        """A consistent snapshot of what it is doing and has done."""
        ...
