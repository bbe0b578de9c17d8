"""Tells whoever watches how many rows the passes of a thread compute, as they compute them."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    OnRows = Callable[[int], None]
    """(rows that a decode has computed)."""

_watchers: ContextVar[tuple[OnRows, ...]] = ContextVar("watchers", default=())


@contextmanager
def watching(on_rows: OnRows) -> Iterator[None]:
    """Have `on_rows` called after each decode of the passes that this thread runs inside.

    Generation, scoring and capture are seen; lanes, which wait for one another, are not.

    Args:
        on_rows: Called on the same thread. Whoever watched before goes on watching.
    """
    before = _watchers.set((*_watchers.get(), on_rows))
    try:
        yield
    finally:
        _watchers.reset(before)


def computed(n_rows: int) -> None:
    """Tell that a decode has computed so many rows."""
    for on_rows in _watchers.get():
        on_rows(n_rows)
