"""How many threads BLAS takes while others compute."""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import pytest

from llamacart.machine.blas import (
    FEW,
    blas_libraries,
    each,
    one_blas_thread,
    threads_for_products,
)


def threads() -> list[int]:
    return [blas.get() for blas in blas_libraries()]


@pytest.fixture
def two_threads():
    """Each library takes two, on whatever machine."""
    before = [(blas, blas.get()) for blas in blas_libraries()]
    for blas, _ in before:
        blas.set(2)
    yield
    for blas, n_threads in before:
        blas.set(n_threads)


@pytest.mark.skipif(sys.platform != "linux", reason="others may have another BLAS")
def test_numpys_own_library_is_found() -> None:
    assert "openblas" in str(np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"])
    assert blas_libraries()


@pytest.mark.usefixtures("two_threads")
def test_one_thread_for_as_long_as_somebody_asks() -> None:
    before = threads()
    assert set(before) <= {2}
    first, second = one_blas_thread(), one_blas_thread()
    with first:
        assert threads() == [1] * len(before)
        second.__enter__()
    assert threads() == [1] * len(before)  # the second one goes on asking
    second.__exit__(None, None, None)
    assert threads() == before


@pytest.mark.usefixtures("two_threads")
def test_an_error_puts_back_what_was_there() -> None:
    before = threads()
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        _ = 1 // 0
    assert threads() == before


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("n_threads", [1, FEW, FEW + 1])
def test_each_part_is_done_once_and_blas_keeps_out_of_the_way_of_few(n_threads: int) -> None:
    before, done = threads(), np.zeros(100)

    def work(part: slice) -> None:
        done[part] += 1

    with threads_for_products(n_threads):
        assert threads() == ([1] * len(before) if n_threads <= FEW else before)
        each(work, [slice(start, start + 7) for start in range(0, 100, 7)])
    each(work, [slice(0, 50), slice(50, 100)])  # also where no threads have been given
    assert (done == 2).all()
    assert threads() == before


def test_what_fails_in_a_part_is_raised() -> None:
    def work(part: slice) -> None:
        _ = 1 // part.start

    with pytest.raises(ZeroDivisionError), threads_for_products(2):
        each(work, [slice(1, 2), slice(0, 1)])


def test_another_blas_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _path: object())
    assert blas_libraries() == []
    with one_blas_thread():
        pass
