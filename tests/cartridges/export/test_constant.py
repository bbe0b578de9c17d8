from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from llamacart.export import constant
from llamacart.export.constant import PENALTIES, find_constant, solving_bytes
from llamacart.export.rows import LayerRows

D = 24


def rows_of(x: np.ndarray, held: np.ndarray) -> LayerRows:
    return LayerRows(x, float(np.mean(x**2)), held)


def test_a_constant_neuron_is_found() -> None:
    x = np.random.default_rng(0).normal(size=(300, D)).astype(np.float32)
    x[:, 3] = 2.0
    found = find_constant(rows_of(x[:200], x[200:]))
    assert found.penalty == min(PENALTIES)
    assert found.error < 0.02
    assert found.direction[3] == pytest.approx(0.5, abs=0.02)


def test_rows_without_one_have_the_error_of_none() -> None:
    x = np.random.default_rng(0).normal(size=(3000, D)).astype(np.float32)
    found = find_constant(rows_of(x[:2000], x[2000:]))
    assert found.error == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("n", [D - 7, D, 3 * D])
def test_both_sides_are_the_ridge_solution(n, monkeypatch) -> None:
    monkeypatch.setattr(constant, "BLOCK", 10)
    x = np.random.default_rng(0).normal(1.0, size=(n + 50, D)).astype(np.float32)
    x[0] *= 300  # as BOS is
    rows = rows_of(x[1:n], x[n:])
    rows.fit = x[:n]
    found = find_constant(rows)
    wide = x[:n].astype(np.float64)
    penalty = n * found.penalty * rows.scale * np.eye(D)
    expected = np.linalg.solve(wide.T @ wide + penalty, wide.sum(axis=0))
    np.testing.assert_allclose(found.direction, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("n", "width"), [(1200, 2000), (2000, 1200)])
def test_memory_is_as_counted(n, width) -> None:
    x = np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)
    rows = rows_of(x, x[:9])
    tracemalloc.start()
    find_constant(rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.4 * solving_bytes(n, width) < peak < 1.1 * solving_bytes(n, width)
