from __future__ import annotations

import pytest

from llamacart.llama.model import Model
from llamacart.passes import generate
from llamacart.passes.batching import shared_beginning


@pytest.fixture
def model(tiny_path):
    with Model(str(tiny_path())) as loaded:
        yield loaded


@pytest.mark.parametrize(
    ("sequences", "n"),
    [
        ([[1, 2, 3, 4], [1, 2, 5]], 2),
        ([[1, 2, 3], [1, 2]], 1),
        ([[1, 2], [1, 2]], 1),
        ([[1], [1, 2]], 0),
        ([[1, 2, 3]], 2),
        ([[2, 3], [1, 2, 3]], 0),
        ([], 0),
    ],
)
def test_what_sequences_begin_with(sequences: list[list[int]], n: int) -> None:
    assert shared_beginning(sequences) == n
    assert shared_beginning(sequences[::-1]) == n


@pytest.mark.parametrize("beginning", [1, 40, 700])
def test_a_beginning_that_is_read_once_changes_no_text(model: Model, beginning: int) -> None:
    """More rows of it than one decode holds, too."""
    shared = [1, *(5 + i % 90 for i in range(beginning - 1))]
    prompts = [[*shared, 7, 8, 9], [*shared, 30], [*shared, 7, 8, 9], [*shared, 7, 11, 60, 61]]
    counts = [6, 9, 0, 4]
    together = generate.greedy(model, prompts, counts)
    alone = [generate.greedy(model, [p], n)[0] for p, n in zip(prompts, counts, strict=True)]
    assert together == alone
    assert [len(out) for out in together] == counts


def test_it_is_read_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []

    class Counting(generate.Context):
        def decode(self, batch) -> None:
            rows.extend(zip(batch.sequences, batch.positions, strict=True))
            super().decode(batch)

    monkeypatch.setattr(generate, "Context", Counting)
    generate.greedy(model, [[1, 2, 3, n] for n in range(10, 15)], 2)
    assert len(rows) == 3 + 5 * 2
    assert len(set(rows)) == len(rows)


def test_a_text_that_is_over_goes_no_further(model: Model) -> None:
    prompts = [[1, 10, 11], [1, 12]]
    whole = generate.greedy(model, prompts, 8)
    stop = whole[0][2]
    cut = generate.greedy(model, prompts, 8, is_over=lambda tokens: tokens[-1] == stop)
    expected = [out[: out.index(stop) + 1] if stop in out else out for out in whole]
    assert cut == expected
    assert len(cut[0]) <= 3
