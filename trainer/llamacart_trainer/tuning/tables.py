"""A search as tables for a terminal of 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from llamacart_trainer.evaluation.tables import COLUMNS, figure

if TYPE_CHECKING:
    from llamacart_trainer.tuning.search import TuneResult
    from llamacart_trainer.tuning.trials import Trial

SHOWN = 12
"""Trials that are shown; the file of trials has them all."""

RANKED = ("behaviour", "kl_prompted", "distinct", "nll", "kl")
"""Figures that the objective ranks by."""


def trials_table(result: TuneResult) -> Table:
    """The best trials of the last rung, one a row; settings that all of them share stand below."""
    last = [t for t in result.trials if t.rung == result.chosen.rung and not t.error]
    ranked = sorted(last, key=lambda trial: trial.key)[:SHOWN]
    parts = [trial.candidate.parts for trial in ranked]
    shared = [part for part in parts[0] if all(part in each for each in parts)]
    rows = [_numbers(trial) for trial in ranked]
    headings = [h for h in rows[0] if h != "short" or any(row[h] for row in rows)]
    notes = [f"all: {' '.join(shared)}"] if shared else []
    if result.chosen.shortfall:
        notes.append(f"none meets the objective; the first is {result.chosen.shortfall:.3f} short")
    table = _table(
        title=f"{len(result.trials)} trials; validation, best first",
        caption="; ".join(notes) or None,
    )
    table.add_column("settings")
    for heading in ("α", *headings):
        table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
    for trial, own, row in zip(ranked, parts, rows, strict=True):
        table.add_row(
            " ".join(part for part in own if part not in shared) or "–",
            f"{trial.alpha:g}",
            *(f"{row[heading]:.3f}" for heading in headings),
        )
    return table


def winner_table(result: TuneResult) -> Table:
    """One row a figure of the chosen trial: on validation, and on the test with its interval."""
    table = _table(
        title="the first of them",
        caption=f"chosen on {result.chosen_on}; tested on others: {result.tested_on}, with 95 % "
        "intervals",
    )
    table.add_column("")
    table.add_column("validation", justify="right")
    table.add_column("test", justify="right")
    for name, value in result.chosen.figures.items():
        test = figure(result.test, name)
        table.add_row(COLUMNS[name], f"{value:.3f}", "–" if test is None else str(test))
    return table


def _numbers(trial: Trial) -> dict[str, float]:
    """Heading → what a trial is ranked by."""
    figures = {COLUMNS[name]: trial.figures[name] for name in RANKED if name in trial.figures}
    return {**figures, "short": trial.shortfall, "cost": trial.cost}


def _table(title: str, caption: str | None = None) -> Table:
    """Without vertical lines, which would take the room of two columns."""
    return Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
