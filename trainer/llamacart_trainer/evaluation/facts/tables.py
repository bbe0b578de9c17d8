"""The section on facts of an evaluation: one table, for the terminal and the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from llamacart_trainer.evaluation.facts.figures import GROUPS, HEADINGS
from llamacart_trainer.evaluation.results import FIXED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart_trainer.evaluation.bootstrap import Estimate
    from llamacart_trainer.evaluation.facts.figures import FactFigures, Group
    from llamacart_trainer.evaluation.results import Evaluation, Point

BY_ODDS, BY_TEXT, MARGIN = "by odds", "by text", "margin"
"""The three figures of a group: see `GroupFigures`."""

CAPTION = (
    "Shares of texts, by fact. By odds: the right answer is likelier than the other one. By text: "
    "the model's first tokens hold the right answer. Right is the fact's object, a reversed text's "
    "subject, a use's answer; the other is what the model says without a cartridge, or was. For "
    "neighbours, negated texts, and elsewhere (something else is asked of the subject) the object "
    "is the wrong one: it must be less likely, and not come. Margin: median of log-odds for the "
    "right one, nats. Unchanged: share of the first tokens behind neighbours that are the "
    "unsteered model's own, up to the first other one. First word elsewhere: share of texts there "
    "whose first token is the unsteered model's own. "
    "Intervals: 95 %, Wilson's for shares of facts, else of the bootstrap over facts."
)


@dataclass(frozen=True)
class FactRow:
    """A line of the table.

    Attributes:
        label: The contender; empty where the line above has it.
        alpha: Its α; empty for what knows none.
        by: One of the three figures.
        cells: A figure for each column, None where there is none.
    """

    label: str
    alpha: str
    by: str
    cells: tuple[Estimate | None, ...]


@dataclass(frozen=True)
class FactTable:
    """The figures of every contender at its α.

    Attributes:
        columns: Headings, behind the contender, α and the figure's name.
        rows: Lines; three for each contender.
    """

    columns: tuple[str, ...]
    rows: tuple[FactRow, ...]


def fact_table(points: Sequence[Point]) -> FactTable | None:
    """The table of the points that were asked about facts; None where none was."""
    asked = [(point, point.scores.facts) for point in points if point.scores.facts is not None]
    if not asked:
        return None
    groups = [group for group in GROUPS if any(group in facts.groups for _, facts in asked)]
    columns = [
        *(f"{HEADINGS[group]} ↑" for group in groups),
        *("mean ↑", "unchanged ↑", "first word elsewhere ↑", "KL ↓", "prompt tokens"),
    ]
    rows = []
    for point, facts in asked:
        alpha = "" if point.kind in FIXED else f"{point.alpha:g}"
        own = (facts.mean, facts.unchanged, facts.kept, point.scores.kl, facts.prompt_tokens)
        none = (None,) * len(own)
        for by, more in ((BY_ODDS, own), (BY_TEXT, none), (MARGIN, none)):
            first = by == BY_ODDS
            rows.append(
                FactRow(
                    point.label if first else "",
                    alpha if first else "",
                    by,
                    (*(_figure(facts, group, by) for group in groups), *more),
                )
            )
    return FactTable(tuple(columns), tuple(rows))


def facts_in_terminal(evaluation: Evaluation) -> Table | None:
    """The table on the facts of the test; None where there are none."""
    return terminal_table(evaluation.tests, f"facts: {evaluation.tested_on.facts} of the test")


def terminal_table(points: Sequence[Point], title: str) -> Table | None:
    """The table of `fact_table` for a terminal."""
    found = fact_table(points)
    if found is None:
        return None
    table = Table(title=title)
    for heading in ("", "α", ""):
        table.add_column(heading, overflow="fold", no_wrap=not heading)
    for heading in found.columns:
        table.add_column(heading, justify="right", overflow="fold")
    for row in found.rows:
        cells = ("" if c is None else f"{c.value:.2f}\n{c.low:.2f} {c.high:.2f}" for c in row.cells)
        table.add_row(row.label, row.alpha, row.by, *cells)
    table.caption = CAPTION
    return table


def _figure(facts: FactFigures, group: Group, by: str) -> Estimate | None:
    found = facts.groups.get(group)
    if found is None:
        return None
    return {BY_ODDS: found.odds, BY_TEXT: found.said, MARGIN: found.margin}[by]
