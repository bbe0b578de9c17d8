"""The tables of a search in a terminal of 80 columns."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO

import numpy as np
from rich.console import Console
from rich.table import Table

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart_trainer.evaluation.bootstrap import Estimate
from llamacart_trainer.evaluation.results import Measured, Scores
from llamacart_trainer.tuning.search import TuneResult
from llamacart_trainer.tuning.space import Candidate
from llamacart_trainer.tuning.tables import SHOWN, trials_table, winner_table
from llamacart_trainer.tuning.trials import Trial

OWN = Candidate("ridge-identity", 1000.0, 0.035, (-1,), ("handover", "identity"), "builtin")
CANDIDATES = [
    OWN,
    replace(OWN, skip_layers=()),
    replace(OWN, solver="mean-replace", pairing=("position",)),
    replace(OWN, penalty="auto", neutral=None),
]
FIGURES = {
    "behaviour": 0.951, "nll": 12.345, "distinct": 0.802, "repetition": 0.013,
    "kl": 10.254, "log_odds": -12.345, "p_target": 0.125, "p_leaked": 0.001,
}  # fmt: skip


def result(trials: list[Trial]) -> TuneResult:
    ends = {name: Estimate(v + 0.1, v - 1.25, v + 1.25, 5) for name, v in FIGURES.items()}
    layer_map = LayerMap.from_dense(0, np.array([1]), np.eye(4)[[1]], np.zeros(1))
    fingerprint = Fingerprint("llama", 1, 4, 4, "ab" * 32, "tiny")
    cartridge = Cartridge(Metadata("t"), fingerprint, (layer_map,))
    return TuneResult(
        cartridge, trials[0], tuple(trials), Scores(**ends), Measured(72, 0, 15), Measured(40, 0, 9)
    )


def trials(candidates: list[Candidate], shortfall: float = 0.0) -> list[Trial]:
    return [
        Trial(
            candidates[i % len(candidates)], round(0.55 + i / 10, 2), 2, 72,
            shortfall * i, 20.004 + i,
            {name: round(value + i / 1000, 6) for name, value in FIGURES.items()},
        )
        for i in range(SHOWN)
    ]  # fmt: skip


def rendered(table: Table) -> list[str]:
    out = StringIO()
    Console(file=out, width=80, markup=False).print(table)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in out.getvalue()
    return lines


def numbers(line: str) -> list[str]:
    """The columns of numbers at the end of a line."""
    found = re.search(r"(?: +-?[\d.]+)+ *$", line)
    return found.group().split() if found else []


def test_every_number_is_whole() -> None:
    made = trials(CANDIDATES, shortfall=0.012)
    lines = rendered(trials_table(result(made)))
    rows = [found for found in map(numbers, lines) if len(found) == 7]
    assert rows == [
        [
            f"{t.alpha:g}",
            *(f"{t.figures[name]:.3f}" for name in ("behaviour", "distinct", "nll", "kl")),
            f"{t.shortfall:.3f}",
            f"{t.cost:.3f}",
        ]
        for t in made
    ]
    words = " ".join(lines).split()
    for candidate in CANDIDATES:
        assert set(candidate.parts) <= set(words)
    for heading in ("behaviour", "distinct-2", "NLL", "KL", "short", "cost"):
        assert heading in words


def test_what_all_trials_share_is_said_once() -> None:
    lines = rendered(trials_table(result(trials([OWN, replace(OWN, penalty=300.0)]))))
    text = " ".join(" ".join(lines).split())
    assert "short" not in text
    assert sum("ridge-identity" in line for line in lines) == 1
    assert "all: ridge-identity δ=0.035 skip=-1 handover+identity neutral=builtin" in text
    assert [line.split()[0] for line in lines if "λ=" in line] == ["λ=1000", "λ=300"] * 6
    alone = rendered(trials_table(result(trials([OWN]))))
    assert [line.split()[:2] for line in alone if line.startswith("–")] == [
        ["–", f"{t.alpha:g}"] for t in trials([OWN])
    ]
    assert f"all: {OWN}" in " ".join(" ".join(alone).split())


def test_a_winner_that_does_not_do_what_was_asked_is_told() -> None:
    made = trials([OWN])
    assert "none meets" not in " ".join(rendered(trials_table(result(made))))
    short = [replace(trial, shortfall=0.95) for trial in made]
    text = " ".join(" ".join(rendered(trials_table(result(short)))).split())
    assert f"all: {OWN}; none meets the objective; the first is 0.950 short" in text


def test_the_winner_has_every_figure_on_both_plans() -> None:
    text = "\n".join(rendered(winner_table(result(trials(CANDIDATES)))))
    assert (
        "chosen on 72 prompts, 15 neutral texts; tested on others: 40 prompts, 9 neutral texts"
        in " ".join(text.split())
    )
    for value in FIGURES.values():
        test = f"{value + 0.1:.3f} [{value - 1.25:.3f}, {value + 1.25:.3f}]"
        assert re.search(rf" {value:.3f} +{re.escape(test)}", text)
