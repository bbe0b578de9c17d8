"""A generation as its caller sees it: a stream of events that can be cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING

from llamacart.errors import LlamacartError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from llamacart_server.request import TokenEvent


class Generation:
    """Events of one generation, for one consumer in any thread or any asyncio loop.

    Iterate with `async for`, or with `events()` in plain code. Both end after the event with
    a finish reason or after `cancel()`, raise the error that ended the generation if one
    did, and cancel it when they are left early.

    Args:
        on_cancel: Tells the engine; called at most once, by any thread.
    """

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        self._on_cancel = on_cancel
        self._changed = threading.Condition()
        self._items: deque[TokenEvent | LlamacartError] = deque()
        self._ended = False
        self._cancelled = False
        self._wake: Callable[[], object] | None = None

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled before it ended."""
        return self._cancelled

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
        """End the generation; its row and cells are free after the step that is running."""
        with self._changed:
            if self._ended:
                return
            self._ended = self._cancelled = True
            self._items.clear()
            self._notify()
        self._on_cancel()

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
