"""A step's rows, shared among those who need some."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llamacart_server.engine.plan import fair_shares


class TestFairShares:
    @given(
        needs=st.lists(st.integers(1, 50), max_size=8),
        budget=st.integers(0, 200),
        turn=st.integers(0, 20),
    )
    def test_all_of_the_budget_is_used_and_nobody_gets_too_much(self, needs, budget, turn):
        shares = fair_shares(needs, budget, turn)
        assert sum(shares) == min(budget, sum(needs))
        assert all(0 <= share <= need for share, need in zip(shares, needs, strict=True))

    @given(
        needs=st.lists(st.integers(1, 50), min_size=1, max_size=8),
        budget=st.integers(0, 200),
        turn=st.integers(0, 20),
    )
    def test_whoever_needs_more_got_no_less_than_another_but_one(self, needs, budget, turn):
        shares = fair_shares(needs, budget, turn)
        for share, need in zip(shares, needs, strict=True):
            assert share == need or share >= max(shares) - 1

    def test_a_row_that_cannot_be_split_goes_round(self):
        got = [fair_shares([9, 9, 9], 1, turn) for turn in range(3)]
        assert got == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
