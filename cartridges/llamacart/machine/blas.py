"""How many threads NumPy's and SciPy's BLAS take, and threads that take its place.

OpenBLAS keeps threads of its own, which go on looking for work for a while after each product, as
those do that wait for them. Where others compute on all processors meanwhile, they take one from
those most of the time. On few processors it is enough that another program is busy on one: fits of
16 seconds on one processor took 77 on two of which one was busy. Threads of ours sleep while they
wait.

Source of the names: https://github.com/MacPython/openblas-libs, of which the wheels are built. A
BLAS without them (Accelerate, MKL) is left as it is.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PACKAGES = ("numpy", "scipy")
NAMES = ("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads")


class _Blas(NamedTuple):
    """One library's functions.

    Attributes:
        get: Returns the number of threads.
        set: Takes it.
    """

    get: Any
    set: Any


def blas_libraries() -> list[_Blas]:
    """Those that came with the packages that are imported."""
    found = []
    for name in PACKAGES:
        package = sys.modules.get(name)
        if package is None or not package.__file__:
            continue
        folder = Path(package.__file__).parent
        for path in sorted((folder.parent / f"{name}.libs").glob("*openblas*")):
            library = ctypes.CDLL(str(path))  # the one that is loaded already
            for own in NAMES:
                functions = [getattr(library, own.format(verb), None) for verb in ("get", "set")]
                if None not in functions:
                    found.append(_Blas(*functions))
    return found


FEW = 3
"""On so many processors at most BLAS is given one, and products are shared out by `each`."""


class _Few:
    """Who asks for one thread at the moment, and what was there before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._askers = 0
        self._before: list[tuple[_Blas, int]] = []

    def begin(self) -> None:
        """One more asks."""
        with self._lock:
            self._askers += 1
            if self._askers == 1:
                self._before = [(blas, blas.get()) for blas in blas_libraries()]
                for blas, _ in self._before:
                    blas.set(1)

    def end(self) -> None:
        """One less; the last one puts back what was there."""
        with self._lock:
            self._askers -= 1
            if not self._askers:
                for blas, n_threads in self._before:
                    blas.set(n_threads)


_few = _Few()
_pool: ContextVar[ThreadPoolExecutor | None] = ContextVar("pool", default=None)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let each product be computed by the thread that asks for it, in the whole process."""
    _few.begin()
    try:
        yield
    finally:
        _few.end()


@contextmanager
def threads_for_products(n_threads: int) -> Iterator[None]:
    """Let `each` use so many threads, and BLAS too where they are not few.

    Args:
        n_threads: Processors to use.
    """
    with ThreadPoolExecutor(n_threads, "product") if n_threads > 1 else nullcontext() as pool:
        token = _pool.set(pool)
        try:
            with one_blas_thread() if n_threads <= FEW else nullcontext():
                yield
        finally:
            _pool.reset(token)


def each(work: Callable[[slice], None], parts: Iterable[slice]) -> None:
    """Do some work for each part, at the same time where threads have been given for it.

    Args:
        work: May not depend on the order, and is numbers' work that other threads can run beside.
        parts: What it is done for.
    """
    pool = _pool.get()
    if pool is None:
        for part in parts:
            work(part)
    else:
        for _ in pool.map(work, parts):
            pass


def slices(stop: int, size: int, *, start: int = 0) -> list[slice]:
    """Parts for `each`, one behind the other, of so many at most; the last may be shorter."""
    return [slice(at, min(at + size, stop)) for at in range(start, stop, size)]
