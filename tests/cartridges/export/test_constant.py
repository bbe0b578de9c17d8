from __future__ import annotations

import numpy as np
import pytest

from llamacart.export.constant import PENALTIES, find_constant
from llamacart.export.rows import LayerRows

D = 24


def rows_of(x: np.ndarray, held: np.ndarray) -> LayerRows:
    return LayerRows(
        x.T.astype(np.float64) @ x, x.sum(axis=0, dtype=np.float64), float(np.mean(x**2)), held
    )


def test_a_constant_neuron_is_found() -> None:
    x = np.random.default_rng(0).normal(size=(300, D)).astype(np.float32)
    x[:, 3] = 2.0
    found = find_constant(rows_of(x[:200], x[200:]), 200)
    assert found.penalty == min(PENALTIES)
    assert found.error < 0.02
    assert found.direction[3] == pytest.approx(0.5, abs=0.02)


def test_rows_without_one_have_the_error_of_none() -> None:
    x = np.random.default_rng(0).normal(size=(3000, D)).astype(np.float32)
    found = find_constant(rows_of(x[:2000], x[2000:]), 2000)
    assert found.error == pytest.approx(1, abs=0.05)
