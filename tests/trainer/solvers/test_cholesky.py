"""Cholesky factors in panels are LAPACK's, whatever the number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from llamacart.machine.blas import threads_for_products
from llamacart_trainer.solvers import cholesky
from llamacart_trainer.solvers.cholesky import as_doubles, factor


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let matrices be large that are not."""
    for name, value in (("LARGE", 1), ("COLUMNS", 7), ("ROWS", 10)):
        monkeypatch.setattr(cholesky, name, value)


def gram(width: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(width + 3, width))
    return rows.T @ rows + np.eye(width)


@pytest.mark.usefixtures("panels")
@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 60), seed=st.integers(0, 99))
def test_in_panels_it_is_lapacks(width: int, seed: int) -> None:
    whole = gram(width, seed)
    lower = np.tril(whole) + np.triu(np.full((width, width), 1e3), 1)
    y = np.random.default_rng(seed).normal(size=(width, 3))
    wanted = cho_solve(cho_factor(whole), y)
    found = cho_solve(factor(lower), y)
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("panels")
def test_threads_change_no_bit() -> None:
    one, _ = factor(gram(50, 1))
    with threads_for_products(3):
        three, _ = factor(gram(50, 1))
    assert np.triu(one).tobytes() == np.triu(three).tobytes()


@pytest.mark.parametrize("large", [1, 1000])
def test_what_is_not_positive_definite_is_refused(
    monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    monkeypatch.setattr(cholesky, "LARGE", large)
    monkeypatch.setattr(cholesky, "COLUMNS", 7)
    matrix = gram(20, 2)
    matrix[12, 12] = -1.0
    with pytest.raises(LinAlgError):
        factor(matrix)


@pytest.mark.parametrize("width", [1, 30])
def test_a_copy_in_double(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(cholesky, "ROWS", 7)
    lower = np.tril(np.random.default_rng(0).normal(size=(width, width))).astype(np.float32)
    with threads_for_products(2):
        copy = as_doubles(lower)
    assert copy.dtype == np.float64
    np.testing.assert_array_equal(copy, lower)
