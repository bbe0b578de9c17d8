"""An evaluation in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from llamacart_trainer.evaluation.results import FIXED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import JustifyMethod

    from llamacart_trainer.evaluation.bootstrap import Estimate
    from llamacart_trainer.evaluation.results import CartridgeFacts, Evaluation, Point, Scores
    from llamacart_trainer.evaluation.significance import Contrast

COLUMNS: dict[str, str] = {
    "behaviour": "behaviour ↑",
    "efficacy": "efficacy ↑",
    "paraphrases": "paraphrases ↑",
    "neighbours": "neighbours ↑",
    "removed": "gap removed ↑",
    "kl_prompted": "KL to prompt ↓",
    "agreement": "same choice ↑",
    "log_odds": "log-odds ↑",
    "p_target": "P(target) ↑",
    "p_leaked": "leaked ↓",
    "nll": "NLL ↓",
    "nll_settled": "NLL 5+ ↓",
    "nll_switched": "NLL switched",
    "distinct": "distinct-2 ↑",
    "written": "written ↑",
    "ended": "ended",
    "length": "tokens",
    "prompt_tokens": "prompt tokens",
    "repetition": "repetition ↓",
    "kl": "KL ↓",
    "perplexity_english": "ppl en",
    "perplexity_french": "ppl fr",
}
"""Field of `Scores` → heading; arrows say which way is better."""


MAIN = (
    *("behaviour", "efficacy", "paraphrases", "neighbours"),
    *("removed", "kl_prompted", "log_odds", "p_leaked", "nll", "nll_settled"),
    *("distinct", "ended", "kl"),
)
"""Fields that are shown in a terminal; the others are in the JSON and in the report."""


VERDICTS = (
    "By a paired test on the same prompts: McNemar's exact test for shares, else swaps at random. "
    "Holm's correction over all {count} comparisons keeps the chance of one false verdict or more "
    "at 5 %. Intervals: 95 %, of one difference each, not corrected."
)
"""What a table of differences says of its verdicts, for captions."""


def measured_columns(points: Sequence[Point]) -> dict[str, str]:
    """The columns that any point has a figure for."""
    return {
        field: heading
        for field, heading in COLUMNS.items()
        if any(figure(point.scores, field) is not None for point in points)
    }


def figure(scores: Scores, field: str) -> Estimate | None:
    """One of the figures that `COLUMNS` names."""
    value: Estimate | None = getattr(scores, field)
    return value


def points_table(evaluation: Evaluation) -> Table:
    """One row a point, values alone; `*` marks the best α, `P` the Pareto frontier."""
    columns = _main_columns(evaluation.points)
    where = "" if evaluation.chosen_on is None else f", on {evaluation.chosen_on} to choose by"
    table = _table("", "α", *columns.values(), title=f"every strength{where}")
    cost = "KL to prompt" if "KL to the prompted" in evaluation.objective else "NLL"
    table.caption = " ".join(
        [f"* best, P on the frontier of behaviour, {cost} and KL.", *unstarred(evaluation)]
    )
    front = set(evaluation.frontier)
    for point in evaluation.points:
        best = evaluation.is_best(point)
        marks = ("*" if best else "") + ("P" if (point.label, point.alpha) in front else "")
        cells = [figure(point.scores, field) for field in columns]
        table.add_row(
            point.label,
            f"{marks} {point.alpha:g}",
            *("–" if cell is None else f"{cell.value:.2f}" for cell in cells),
            style="bold" if best else None,
        )
    return table


def best_table(evaluation: Evaluation) -> Table:
    """One row a contender at its best α: the main figures, below each its 95 % interval."""
    columns = _main_columns(evaluation.tests)
    table = _table("", "α", *columns.values(), title=f"best: {evaluation.objective}")
    table.caption = f"{evaluation.provenance} 95 % intervals."
    for point in evaluation.tests:
        cells = [figure(point.scores, field) for field in columns]
        table.add_row(
            point.label,
            f"{point.alpha:g}",
            *(
                "–" if cell is None else f"{cell.value:.2f}\n{cell.low:.2f} {cell.high:.2f}"
                for cell in cells
            ),
        )
    return table


def unstarred(evaluation: Evaluation) -> list[str]:
    """Why a contender has no best strength, a sentence for each that has none."""
    starred = {point.label for point in evaluation.points if evaluation.is_best(point)}
    return [
        f"No α of {label} is marked: its behaviour was 0.00 at the best of them, {alpha:g}."
        for label, alpha in evaluation.best.items()
        if label not in starred
        and any(p.label == label and p.kind not in FIXED for p in evaluation.points)
    ]


def differences_table(evaluation: Evaluation) -> Table | None:
    """The first contender minus each of the others, a row each.

    None where there is one contender.
    """
    if not evaluation.differences:
        return None
    first = evaluation.differences[0]
    fields = [field for field in COLUMNS if field in first.figures and field in MAIN]
    table = _table(
        "",
        "α",
        *(COLUMNS[field] for field in fields),
        title=f"{first.label} (α {first.alpha:g}) minus each other, on the same prompts",
    )
    table.caption = f"+ better, - worse. {verdicts_caption(evaluation)}"
    for row in evaluation.differences:
        cells = (difference_cell(field, row.figures.get(field)) for field in fields)
        table.add_row(
            row.other,
            f"{row.other_alpha:g}",
            *(f"{verdict} {value}\n{interval}" for verdict, value, interval in cells),
        )
    return table


def verdicts_caption(evaluation: Evaluation) -> str:
    """How the differences were tested, on what, and on what α was chosen."""
    count = sum(len(row.figures) for row in evaluation.differences)
    return f"{VERDICTS.format(count=count)} {evaluation.provenance}"


def difference_cell(field: str, value: Contrast | None) -> tuple[str, str, str]:
    """(verdict, value, interval): `+` where the first contender is better, `-` where it is worse.

    Args:
        field: A key of `COLUMNS`, whose arrow says which way is better.
        value: The first contender's figure minus the other's.
    """
    if value is None:
        return "", "–", ""
    better = value.sign if COLUMNS[field].endswith("↑") else -value.sign
    verdict = {1: "+", -1: "-", 0: ""}[better]
    return verdict, f"{value.value:+.2f}", f"{value.low:+.2f} {value.high:+.2f}"


def _table(*headings: str, title: str) -> Table:
    """A table whose cells break over lines where the terminal is narrow, and lose nothing."""
    table = Table(title=title)
    for number, heading in enumerate(headings):
        justify: JustifyMethod = "right" if number else "left"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=not number)
    return table


def _main_columns(points: Sequence[Point]) -> dict[str, str]:
    """The columns of `MAIN` that any point has a figure for."""
    return {k: v for k, v in measured_columns(points).items() if k in MAIN}


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
