"""Calls in threads that a cancelled task waits for, so that it frees nothing under them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from fastapi.concurrency import run_in_threadpool

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def in_thread(work: Callable[..., T], *args: object) -> T:
    """Call `work` in a thread and wait for it, also when the task is cancelled meanwhile.

    A thread cannot be stopped: without the wait it would go on with files and locks that its
    task has given up.
    """
    call = asyncio.ensure_future(run_in_threadpool(work, *args))
    cancelled: asyncio.CancelledError | None = None
    while not call.done():
        try:
            await asyncio.wait({call})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not call.cancelled():
            call.exception()  # so that nobody misses it
        raise cancelled
    return call.result()
