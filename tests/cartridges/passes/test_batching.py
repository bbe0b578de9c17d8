"""How sequences are cut into decodes, against the rules said plainly."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from llamacart.llama.context import MAX_SEQUENCES
from llamacart.passes.batching import Row, as_batch, fillings, rows_of, slices

lengths = st.lists(st.integers(1, 12), min_size=1, max_size=30)


def sequences(sizes: list[int]) -> list[list[int]]:
    return [[100 * s + i for i in range(n)] for s, n in enumerate(sizes)]


@given(sizes=lengths, n_cells=st.integers(1, 40))
def test_runs_are_whole_and_as_long_as_the_cache_allows(sizes: list[int], n_cells: int) -> None:
    runs = list(fillings(sequences(sizes), n_cells))
    assert [s for run in runs for s in run] == list(range(len(sizes)))
    for run in runs:
        assert sum(sizes[s] for s in run) <= n_cells or len(run) == 1
    for run, following in pairwise(runs):
        assert sum(sizes[s] for s in run) + sizes[following.start] > n_cells


def test_a_run_has_no_more_sequences_than_a_context_holds() -> None:
    runs = list(fillings(sequences([1] * (2 * MAX_SEQUENCES + 3)), 10_000))
    assert [len(run) for run in runs] == [MAX_SEQUENCES, MAX_SEQUENCES, 3]


@given(
    sizes=lengths,
    first_outputs=st.lists(st.integers(0, 12), min_size=30, max_size=30),
    max_rows=st.integers(1, 20),
    max_outputs=st.none() | st.integers(1, 6),
)
def test_parts_keep_order_and_limits_and_are_as_long_as_these_allow(
    sizes: list[int], first_outputs: list[int], max_rows: int, max_outputs: int | None
) -> None:
    rows = rows_of(sequences(sizes), range(len(sizes)), lambda s, i: i >= first_outputs[s])
    parts = list(slices(rows, max_rows, max_outputs))
    assert [row for part in parts for row in part] == rows
    limit = max_rows if max_outputs is None else max_outputs
    for part in parts:
        assert len(part) <= max_rows
        assert sum(row.output for row in part) <= limit
    for part, following in pairwise(parts):
        grown = [*part, following[0]]
        assert len(grown) > max_rows or sum(row.output for row in grown) > limit


def test_rows_and_their_batch() -> None:
    rows = rows_of([[7], [8, 9], [5]], range(1, 3), lambda s, i: (s, i) == (1, 1))
    assert rows == [Row(1, 0, 8, False), Row(1, 1, 9, True), Row(2, 0, 5, False)]
    batch = as_batch(rows, 1)
    assert (batch.tokens, batch.positions) == ([8, 9, 5], [0, 1, 0])
    assert (batch.sequences, batch.outputs) == ([0, 0, 1], [False, True, False])
    assert list(slices([], 4)) == []
