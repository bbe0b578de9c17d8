"""Renders the page: a Jinja template with autoescape, figures and styles inline."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context

from llamacart_trainer.evaluation.facts.tables import CAPTION, fact_table
from llamacart_trainer.evaluation.prompts.closing import closing_sentences
from llamacart_trainer.evaluation.results import FIXED
from llamacart_trainer.evaluation.tables import (
    COLUMNS,
    difference_cell,
    figure,
    measured_columns,
    unstarred,
    verdicts_caption,
)
from llamacart_trainer.report import plots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart_trainer.evaluation.bootstrap import Estimate
    from llamacart_trainer.evaluation.results import CartridgeFacts, Evaluation, Point

MAX_TEXTS = 20
"""Prompts shown side by side."""

SECTIONS = {
    "summary": "Summary",
    "facts": "Facts",
    "differences": "Against each of the others",
    "fidelity": "Fidelity and force on held-out rows",
    "projection": "Base, input, target and steered rows",
    "sweep": "Strength sweep",
    "frontier": "Frontier against the baselines",
    "spectrum": "Singular values",
    "texts": "Texts side by side",
    "settings": "Settings of the fit",
}
"""Anchor → heading of every section, in order."""


@dataclass(frozen=True)
class Row:
    """One line of a table of points; a cell is a value and its interval."""

    label: str
    alpha: str
    best: bool
    frontier: bool
    cells: tuple[tuple[str, str], ...]


def render(evaluation: Evaluation) -> str:
    """The report as one HTML page: no script, no network.

    Cartridges are the evaluation's own; where there are several, the first is the one whose
    layers are shown, and the others are in the tables and plots of all contenders.
    """
    environment = Environment(
        loader=PackageLoader("llamacart_trainer.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    with rc_context(plots.STYLE):
        figures = {name: Markup(svg) for name, svg in _figures(evaluation).items()}  # noqa: S704
    columns, swept = measured_columns(evaluation.tests), measured_columns(evaluation.points)
    return environment.get_template("template.html").render(
        evaluation=evaluation,
        sections=SECTIONS,
        figures=figures,
        columns=list(columns.values()),
        rows=_rows(evaluation, evaluation.tests, columns),
        strengths=_rows(evaluation, evaluation.points, swept),
        swept=list(swept.values()),
        verdicts=verdicts_caption(evaluation),
        fixed={point.label for point in evaluation.tests if point.kind in FIXED},
        closing=closing_sentences(evaluation),
        unstarred=unstarred(evaluation),
        asked=_facts(evaluation),
        asked_caption=CAPTION,
        differences=_differences(evaluation),
        texts=_texts(evaluation),
        facts=[(facts, _settings(facts)) for facts in evaluation.cartridges],
        shown=evaluation.cartridges[0] if evaluation.cartridges else None,
    )


def _figures(evaluation: Evaluation) -> dict[str, str]:
    figures = {
        "sweep": plots.sweep_plot(evaluation),
        "frontier": plots.frontier_plot(evaluation),
    }
    if evaluation.cartridges:
        facts = evaluation.cartridges[0]
        if facts.heldout is not None:
            figures["fidelity"] = plots.fidelity_plot(facts.heldout)
            if facts.heldout.projection is not None:
                figures["projection"] = plots.projection_plot(facts.heldout.projection)
        spectra = _spectra(facts)
        if spectra:
            figures["spectrum"] = plots.spectrum_plot(spectra)
    return figures


def _spectra(facts: CartridgeFacts) -> list[tuple[int, Sequence[float]]]:
    """(layer, singular values) of the layers whose fit kept them."""
    return [
        (int(layer["layer"]), values)
        for layer in facts.diagnostics.get("layers", [])
        if (values := layer.get("spectrum")) and max(values) > 0
    ]


def _rows(evaluation: Evaluation, points: Sequence[Point], columns: dict[str, str]) -> list[Row]:
    front = set(evaluation.frontier)
    rows = []
    for point in points:
        cells = [figure(point.scores, field) for field in columns]
        rows.append(
            Row(
                label=point.label,
                alpha=f"{point.alpha:g}",
                best=evaluation.is_best(point),
                frontier=(point.label, point.alpha) in front,
                cells=tuple(_cell(cell) for cell in cells),
            )
        )
    return rows


def _differences(evaluation: Evaluation) -> dict[str, Any] | None:
    """Headings and rows of the first contender's differences; None without any."""
    if not evaluation.differences:
        return None
    first = evaluation.differences[0]
    fields = [field for field in COLUMNS if field in first.figures]
    return {
        "first": first,
        "columns": [COLUMNS[field] for field in fields],
        "rows": [
            (row, [difference_cell(field, row.figures.get(field)) for field in fields])
            for row in evaluation.differences
        ],
    }


def _facts(evaluation: Evaluation) -> dict[str, Any] | None:
    """Headings and rows of the table on facts; None without facts."""
    found = fact_table(evaluation.tests)
    if found is None:
        return None
    cells = [[("", "") if c is None else _cell(c) for c in row.cells] for row in found.rows]
    return {"columns": found.columns, "rows": list(zip(found.rows, cells, strict=True))}


def _cell(value: Estimate | None) -> tuple[str, str]:
    """Value and interval, to two digits or, from 100 on, to none; long ones as powers of ten."""
    if value is None:
        return "–", ""
    if max(abs(value.value), abs(value.high)) >= 1e5:
        return f"{value.value:.1e}", f"{value.low:.1e}–{value.high:.1e}"
    digits = 0 if max(abs(value.value), abs(value.high)) >= 100 else 2
    return f"{value.value:.{digits}f}", f"{value.low:.{digits}f}–{value.high:.{digits}f}"


def _texts(evaluation: Evaluation) -> list[dict[str, Any]]:
    """For each prompt what every contender writes at its best α."""
    with_reference = [i for i, text in enumerate(evaluation.references) if text is not None]
    shown = []
    for i, prompt in enumerate(evaluation.prompts[:MAX_TEXTS]):
        written = []
        for point in evaluation.tests:
            # The ceiling has continued the references alone.
            place = i if point.kind != "ceiling" else _place(with_reference, i)
            if place is not None and place < len(point.scores.texts):
                start = evaluation.references[i] if point.kind == "ceiling" else ""
                written.append((point.label, f"{point.alpha:g}", start, point.scores.texts[place]))
        shown.append({"prompt": prompt, "written": written})
    return shown


def _place(indices: Sequence[int], i: int) -> int | None:
    return indices.index(i) if i in indices else None


def _settings(facts: CartridgeFacts) -> list[tuple[str, str]]:
    rest = {k: v for k, v in facts.diagnostics.items() if k != "layers"}
    pairs: list[tuple[str, Any]] = [
        ("solver", facts.solver),
        ("default α", f"{facts.default_alpha:g}"),
        ("active neurons", facts.n_active),
        ("content hash", facts.content_hash[:16]),
        *facts.settings.items(),
        *rest.items(),
    ]
    return [
        (key, v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)) for key, v in pairs
    ]
