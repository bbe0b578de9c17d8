"""The monotone path against every path there is, and rows that find their counterpart."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamacart.llama.model import Model
from llamacart_trainer.fitting.alignment import align, monotone_path


def cheapest(cost: np.ndarray) -> float:
    """By recursion over every path."""
    n, m = cost.shape
    best = np.full((n, m), np.inf)
    for i, j in product(range(n), range(m)):
        before = [best[a, b] for a, b in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if min(a, b) >= 0]
        best[i, j] = cost[i, j] + (min(before) if before else 0)
    return float(best[-1, -1])


@settings(deadline=None)
@given(n=st.integers(1, 9), m=st.integers(1, 9), seed=st.integers(0, 99))
def test_accumulated_costs_are_the_cheapest(n: int, m: int, seed: int) -> None:
    from llamacart_trainer.fitting.alignment import _accumulate

    cost = np.random.default_rng(seed).random((n, m))
    assert _accumulate(cost)[-1, -1] == pytest.approx(cheapest(cost))


@settings(deadline=None)
@given(n=st.integers(1, 12), m=st.integers(1, 12), seed=st.integers(0, 99))
def test_a_path_is_monotone_with_each_row_once(n: int, m: int, seed: int) -> None:
    path = monotone_path(np.random.default_rng(seed).random((n, m)))
    assert [i for i, _ in path] == list(range(n))
    columns = [j for _, j in path]
    assert columns == sorted(columns)
    assert all(0 <= j < m for j in columns)


def test_what_is_alike_is_found() -> None:
    """Row i equals column 2i: the path passes all of them."""
    cost = np.ones((4, 8))
    for i in range(4):
        cost[i, 2 * i] = 0
    assert monotone_path(cost) == [(0, 0), (1, 2), (2, 4), (3, 6)]
    assert monotone_path(np.zeros((0, 3))) == []


def test_a_text_is_aligned_with_itself_and_with_its_repetition(tiny_model: Model) -> None:
    text = tiny_model.tokenize("abcdefgh")
    slow = [text[0], *[token for token in text[1:] for _ in range(2)]]
    same, stretched = align(tiny_model, [(text, text), (text, slow)])
    assert same.rows == [(i, i) for i in range(1, len(text))]
    assert [i for i, _ in stretched.rows] == list(range(1, len(text)))
    alike = sum(text[i] == slow[j] for i, j in stretched.rows)
    assert alike >= len(text) - 2
