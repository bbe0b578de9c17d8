"""A generation as its caller sees it: a stream of events that can be cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING, Literal

from llamacart.errors import LlamacartError
from llamacart_server.engine.request import GenerationReport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from llamacart_server.engine.request import TokenEvent


Ending = Literal["finished", "cancelled"]


class Generation:
    """Events of one generation, for one consumer in any thread or any asyncio loop.

    Iterate with `async for`, or with `events()` in plain code. Both end after the event with
    a finish reason or after `cancel()` or `finish()`, raise the error that ended the generation
    if one did, and cancel it when they are left early.

    Args:
        on_ended: Tells the engine that the caller ended it; called at most once, by any thread.

    Attributes:
        report: What is known of it so far, set by the engine; final with the last event.
    """

    def __init__(self, on_ended: Callable[[Ending], None]) -> None:
        self._on_ended = on_ended
        self.report = GenerationReport()
        self._changed = threading.Condition()
        self._items: deque[TokenEvent | LlamacartError] = deque()
        self._ended = False
        self._ended_by_caller: Ending | None = None
        self._wake: Callable[[], object] | None = None

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled before it ended."""
        return self._ended_by_caller == "cancelled"

    @property
    def ended_by_caller(self) -> Ending | None:
        """How the caller ended it before its own end, if it did."""
        return self._ended_by_caller

    def deliver(self, item: TokenEvent | LlamacartError) -> None:
        """Hand over an event or the error that ends the generation (for the engine)."""
        with self._changed:
            if self._ended:
                return
            self._items.append(item)
            self._ended = isinstance(item, LlamacartError) or item.finish_reason is not None
            delivered = self._notify()
        if not delivered:
            self.cancel()

    def cancel(self) -> None:
        """End the generation; its row is free after the step that is running."""
        self._end("cancelled")

    def finish(self) -> None:
        """End the generation early because the caller has what it wants, e.g. a stop string.

        Like `cancel`, but it counts as finished.
        """
        self._end("finished")

    def _end(self, ending: Ending) -> None:
        with self._changed:
            if self._ended:
                return
            self._ended = True
            self._ended_by_caller = ending
            self._items.clear()
            self._notify()
        self._on_ended(ending)

    async def aclose(self) -> None:
        """Cancel; for `contextlib.aclosing`."""
        self.cancel()

    async def __aiter__(self) -> AsyncGenerator[TokenEvent, None]:
        """Yield events as they come."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                arrived = asyncio.Event()
                with self._changed:
                    ready = self._items or self._ended
                    if not ready:
                        self._wake = lambda event=arrived: loop.call_soon_threadsafe(event.set)
                if not ready:
                    await arrived.wait()
                item = self._take()
                if item is None:
                    return
                yield item
        finally:
            self.cancel()

    def events(self) -> Generator[TokenEvent, None, None]:
        """Yield events as they come, blocking in between."""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._items or self._ended)
                item = self._take()
                if item is None:
                    return
                yield item
        finally:
            self.cancel()

    def _take(self) -> TokenEvent | None:
        with self._changed:
            item = self._items.popleft() if self._items else None
        if isinstance(item, LlamacartError):
            raise item
        return item

    def _notify(self) -> bool:
        """Wake the consumer; false where its event loop is gone."""
        self._changed.notify_all()
        wake, self._wake = self._wake, None
        try:
            if wake is not None:
                wake()
        except RuntimeError:  # from asyncio: "Event loop is closed"
            return False
        return True
