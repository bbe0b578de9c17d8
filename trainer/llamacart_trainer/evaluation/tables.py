"""An evaluation in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from llamacart_trainer.evaluation.bootstrap import Estimate
    from llamacart_trainer.evaluation.results import CartridgeFacts, Evaluation, Scores

COLUMNS: dict[str, str] = {
    "behaviour": "behaviour ↑",
    "log_odds": "log-odds ↑",
    "p_target": "P(target) ↑",
    "p_leaked": "leaked ↓",
    "nll": "NLL ↓",
    "nll_settled": "NLL 5+ ↓",
    "nll_switched": "NLL switched",
    "distinct": "distinct-2 ↑",
    "repetition": "repetition ↓",
    "kl": "KL ↓",
    "perplexity_english": "ppl en",
    "perplexity_french": "ppl fr",
}
"""Field of `Scores` → heading; arrows say which way is better."""


def measured_columns(evaluation: Evaluation) -> dict[str, str]:
    """The columns that any point has a figure for."""
    return {
        field: heading
        for field, heading in COLUMNS.items()
        if any(figure(point.scores, field) is not None for point in evaluation.points)
    }


def figure(scores: Scores, field: str) -> Estimate | None:
    """One of the figures that `COLUMNS` names."""
    value: Estimate | None = getattr(scores, field)
    return value


def points_table(evaluation: Evaluation, *, best_only: bool = False) -> Table:
    """One row a point: value and 95 % interval; `*` marks the best α, `P` the Pareto frontier."""
    columns = measured_columns(evaluation)
    table = Table(caption=f"* best α of each: {evaluation.objective}; P on the frontier")
    table.add_column("contender", no_wrap=True)
    table.add_column("α", justify="right")
    table.add_column("")
    for heading in columns.values():
        table.add_column(heading, justify="right")
    front = set(evaluation.frontier)
    for point in evaluation.points:
        best = evaluation.best[point.label] == point.alpha
        if best_only and not best:
            continue
        marks = ("*" if best else "") + ("P" if (point.label, point.alpha) in front else "")
        cells = [figure(point.scores, field) for field in columns]
        table.add_row(
            point.label,
            f"{point.alpha:g}",
            marks,
            *("–" if cell is None else cell.short for cell in cells),
            style="bold" if best else None,
        )
    return table


def differences_table(evaluation: Evaluation) -> Table | None:
    """The first contender minus each of the others, a row each.

    None where there is one contender.
    """
    if not evaluation.differences:
        return None
    first = evaluation.differences[0]
    table = Table(
        title=f"{first.label} (α {first.alpha:g}) minus each other, on the same prompts",
        caption="+ better, - worse, by an interval of the paired bootstrap that leaves out 0",
    )
    table.add_column("other", no_wrap=True)
    table.add_column("α", justify="right")
    fields = [field for field in COLUMNS if field in first.figures]
    for field in fields:
        table.add_column(COLUMNS[field], justify="right")
    for row in evaluation.differences:
        cells = (difference_cell(field, row.figures.get(field)) for field in fields)
        table.add_row(row.other, f"{row.other_alpha:g}", *(" ".join(c).strip() for c in cells))
    return table


def difference_cell(field: str, value: Estimate | None) -> tuple[str, str, str]:
    """(verdict, value, interval): `+` where the first contender is better, `-` where it is worse.

    Args:
        field: A key of `COLUMNS`, whose arrow says which way is better.
        value: The first contender's figure minus the other's.
    """
    if value is None:
        return "", "–", ""
    verdict = ""
    if value.low > 0 or value.high < 0:
        verdict = "+" if (value.value > 0) == COLUMNS[field].endswith("↑") else "-"
    return verdict, f"{value.value:+.2f}", f"[{value.low:+.2f}, {value.high:+.2f}]"


def held_out_table(facts: CartridgeFacts) -> Table | None:
    """Fidelity, force and R² of each layer on held-out rows."""
    if facts.heldout is None:
        return None
    table = Table(title=f"{facts.name}: held-out rows")
    for heading in ("layer", "kept", "rows", "fidelity", "force", "R²", "R² before"):
        table.add_column(heading, justify="right")
    for layer in facts.heldout.layers:
        table.add_row(
            str(layer.layer),
            str(layer.kept),
            str(layer.rows),
            f"{layer.fidelity:.3f}",
            f"{layer.force:.3f}",
            f"{layer.r2:.3f}",
            f"{layer.r2_before:.3f}",
        )
    return table
