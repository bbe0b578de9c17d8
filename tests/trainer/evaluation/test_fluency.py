"""Distinct and repeated parts of texts, by hand and as shares."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart_trainer.evaluation.fluency import LEAST_TOKENS, distinct, repetition

TOKENS = st.lists(st.integers(0, 5), max_size=40)


def test_distinct_and_repetition_by_hand() -> None:
    assert distinct([1, 2, 1, 2, 1]) == 0.5
    assert distinct([1, 2, 3, 4]) == 1.0
    assert distinct([]) == distinct([1]) == distinct([1, 2, 3]) == 0.0  # too short to tell
    assert repetition([1, 2, 3, 4, 9, 1, 2, 3, 4]) == pytest.approx(4 / 9)
    assert repetition([]) == repetition([1, 2, 3]) == 1.0


@given(TOKENS)
def test_fluency_is_a_share(tokens: list[int]) -> None:
    assert 0 <= distinct(tokens) <= 1
    assert 0 <= repetition(tokens) <= 1
    if len(tokens) >= LEAST_TOKENS:
        assert distinct(tokens) > 0
        assert repetition(tokens) < 1
        assert repetition(tokens + tokens + tokens) >= repetition(tokens)
