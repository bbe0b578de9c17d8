from __future__ import annotations

from peers_score import MEAN, SHARES, Result, figures_of, pooled, table_of
from rich.console import Console

VALUES = {**{name: [1.0, 0.0] for name in SHARES}, MEAN: [1.0, 0.5]}


def result(skip: int, **changes: object) -> Result:
    return Result("lora", skip, 2, VALUES, **changes)  # type: ignore[arg-type]


def test_sets_of_a_peer_are_pooled_with_wilsons_interval() -> None:
    ((label, group),) = pooled([result(0), result(2)]).items()
    assert label == "lora, 2 edits"
    shares = figures_of(group)
    efficacy, mean = shares["efficacy"], shares[MEAN]
    assert efficacy is not None
    assert mean is not None
    assert (efficacy.value, efficacy.n, efficacy.statistic) == (0.5, 4, "share")
    assert (round(efficacy.low, 2), round(efficacy.high, 2)) == (0.15, 0.85)
    assert mean.value == 0.75


def test_numbers_of_edits_stand_apart() -> None:
    other = Result("lora", 0, 3, VALUES)
    assert list(pooled([result(0), other])) == ["lora, 2 edits", "lora, 3 edits"]


def test_the_table_tells_what_is_known() -> None:
    console = Console(width=240, record=True)
    console.print(table_of([result(0, seconds=3.0, kl=0.25), result(2, seconds=5.0, bytes=10)]))
    text = console.export_text()
    assert "lora, 2 edits × 2" in text
    assert "0.250" in text
    assert "│       4 │    10 │" in text


def test_a_result_survives_json() -> None:
    own = result(1, settings={"rank": 8}, shows={"losses": [1.0]})
    assert Result(**own.as_json()) == own
