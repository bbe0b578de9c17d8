"""Looks again and again at where cartridges come from, and offers what has changed."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from llamacart.errors import LlamacartError
from llamacart.file.reader import read_cartridge
from llamacart_server.library.library import LeftOut

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from llamacart_server.library.library import CartridgeLibrary
    from llamacart_server.library.source import Source
    from llamacart_server.library.store import CartridgeStore

logger = logging.getLogger(__name__)

LAST_LOOK_SECONDS = 2.0
"""How long a server that stops waits for a look that is under way; a store may never answer."""


class Refresher:
    """Offers new and changed files, and what is gone no longer.

    Only changes since the last look count: a cartridge that somebody has removed over HTTP, and
    whose file is as it was, stays removed. A file that cannot be used is left out, by name; what
    it held before stays on offer. Where the source cannot be listed, everything stays.

    As a context manager it looks from a thread of its own.

    Args:
        source: Where the files are.
        library: Read from `source`.
        store: Changes `library`.
        seconds: Between two looks of the thread.
    """

    def __init__(
        self,
        source: Source,
        library: CartridgeLibrary,
        store: CartridgeStore,
        seconds: float,
    ) -> None:
        self._source = source
        self._library = library
        self._store = store
        self._seconds = seconds
        self._seen = dict(library.seen)
        self._problem = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="llamacart-refresh", daemon=True)

    def refresh(self) -> None:
        """Look once.

        Raises:
            InputError: The source cannot be listed; nothing is changed.
        """
        now = self._source.look()
        gone = self._seen.keys() - now.keys()
        changed = {name for name, stamp in now.items() if self._seen.get(name) != stamp}
        if not gone and not changed:
            return
        for name in sorted(gone):
            self._store.follow(name, None)
            del self._seen[name]
        # What was left out may have waited for an id that is free now.
        again = changed | ({left.file for left in self._library.left_out} & now.keys())
        problems = []
        for name in sorted(again):
            if self._stop.is_set():
                return
            problem = self._take(name, now[name])
            if problem is not None:
                problems.append(LeftOut(name, problem))
        settled = again | gone
        others = [left for left in self._library.left_out if left.file not in settled]
        self._library.left_out = tuple(sorted([*others, *problems], key=lambda left: left.file))

    def _take(self, name: str, stamp: str) -> str | None:
        """Offer a file; returns why it cannot be used, if that is so."""
        known = self._seen.get(name) == stamp
        try:
            path = self._source.path(name, stamp)
        except LlamacartError as error:  # the next look tries again
            self._seen.pop(name, None)
            return self._said(name, error.message, known=known)
        self._seen[name] = stamp
        try:
            self._store.follow(name, read_cartridge(path, label=name))
        except LlamacartError as error:
            return self._said(name, error.message, known=known)
        return None

    def _said(self, name: str, message: str, *, known: bool) -> str:
        reason = message if name in message else f"{name}: {message}"
        if not known:
            logger.warning("cartridges %s: %s is left out: %s", self._source, name, reason)
        return reason

    # --- the thread -------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(LAST_LOOK_SECONDS)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self.refresh()
            except LlamacartError as error:
                if error.message != self._problem:
                    logger.warning("%s; what is on offer stays", error.message)
                self._problem = error.message
            except Exception:
                logger.exception("cartridges %s cannot be refreshed", self._source)
            else:
                self._problem = ""
