"""What others want done on the engine's thread: calls, and work of many short steps."""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamacart.errors import LlamacartError

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def fresh(error: LlamacartError) -> LlamacartError:
    """An error like `error`: raised in several threads, one would gather all their tracebacks."""
    return type(error)(error.message)


class Work(Protocol[T_co]):
    """Work of many steps, which takes turns with the engine's; one thread carries it out."""

    def advance(self) -> T_co | None:
        """Do a step; returns the result after the last one."""
        ...

    def drop(self) -> None:
        """Let go of what it holds; called once it is over, given up or failed."""
        ...


class Jobs:
    """Calls and works that wait for one thread, which `run`s them; the rest is for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._works: deque[tuple[Work[Any], Future[Any]]] = deque()
        self._reason: LlamacartError | None = None

    @property
    def waiting(self) -> bool:
        """Whether `run` has something to do."""
        return bool(self._calls or self._works)

    def call(self, job: Callable[[], T]) -> Future[T]:
        """Have `job` called; raises the reason of `close` once that was called."""
        future: Future[T] = Future()
        with self._lock:
            self._check_open()
            self._calls.append((job, future))
        return future

    def begin(self, work: Work[T]) -> Future[T]:
        """Have `work` carried out, after all that was begun before.

        Whoever cancels the future gives the work up: no step of it begins afterwards, and the
        thread that runs it drops it. Raises the reason of `close` once that was called.
        """
        future: Future[T] = Future()
        with self._lock:
            self._check_open()
            self._works.append((work, future))
        return future

    def _check_open(self) -> None:
        if self._reason is not None:
            raise fresh(self._reason)

    def run(self) -> None:
        """Make the calls that wait, and do one step of the work whose turn it is."""
        for _ in range(len(self._calls)):
            job, future = self._calls.popleft()
            self._settle(future, job)
        while self._works and self._works[0][1].cancelled():
            self._drop(self._works.popleft()[0])
        if self._works:
            self._step(*self._works[0])

    def _step(self, work: Work[Any], future: Future[Any]) -> None:
        try:
            result = work.advance()
        except BaseException as error:
            self._works.popleft()
            self._drop(work)
            _fail(future, error)
            if not isinstance(error, Exception):
                raise
        else:
            if result is not None:
                self._works.popleft()
                self._drop(work)
                if future.set_running_or_notify_cancel():
                    future.set_result(result)

    @staticmethod
    def _settle(future: Future[T], job: Callable[[], T]) -> None:
        try:
            result = job()
        except BaseException as error:  # it belongs to the caller, who waits
            _fail(future, error)
            if not isinstance(error, Exception):
                raise
        else:
            future.set_result(result)

    @staticmethod
    def _drop(work: Work[Any]) -> None:
        try:
            work.drop()
        except Exception:
            logger.exception("what a job held cannot be let go of")

    def close(self, reason: LlamacartError) -> None:
        """Let nobody wait for what will not come: all that waits fails with `reason`."""
        with self._lock:
            self._reason = reason
            calls, self._calls = self._calls, deque()
            works, self._works = self._works, deque()
        for work, _ in works:
            self._drop(work)
        for future in [future for _, future in (*calls, *works)]:
            _fail(future, fresh(reason))


def _fail(future: Future[Any], error: BaseException) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)
