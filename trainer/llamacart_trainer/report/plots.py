"""The figures of the report, each drawn by matplotlib and returned as inline SVG."""

from __future__ import annotations

import io
import itertools
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from llamacart_trainer.evaluation.results import FIXED
from llamacart_trainer.evaluation.tables import figure, measured_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from llamacart_trainer.evaluation.bootstrap import Estimate
    from llamacart_trainer.evaluation.results import Evaluation, HeldOut, Point, Projection

PAGE_WIDTH = 10.7
"""Inches that fill the page."""

SWEEP_COLUMNS = 3
MAX_BANDS = 4

FIDELITY_BAR = 0.80
"""The paper's bar for directional fidelity."""

COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A3D9A", "#8C564B",
    "#666666", "#B2A300", "#1B9E77", "#A6093D",
)  # fmt: skip
"""First eight after Okabe and Ito: told apart by people with any colour vision."""

MARKERS = "osD^vPX*<>ph"
_LINES: dict[str, tuple[str, str]] = {
    "unsteered": ("#111111", ":"),
    "ceiling": ("#888888", "--"),
    "prompted": ("#333333", "-"),
    "prompt": ("#777777", "-."),
}
_SIGNS: dict[str, str] = {"unsteered": "*", "ceiling": "P", "prompted": "h", "prompt": "X"}
_CLOUDS = {
    "base": ("#888888", "o"),
    "input": ("#0072B2", "s"),
    "target": ("#009E73", "^"),
    "steered": ("#D55E00", "x"),
}
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.fonttype": "path",
}


def fidelity_plot(heldout: HeldOut) -> str:
    """The paper's first figure, on held-out rows: fidelity and force ratio of each layer."""
    layers = [figures.layer for figures in heldout.layers]
    fidelity = [figures.fidelity for figures in heldout.layers]
    picture, axes = _axes(7.2, 3.0)
    colours = ["#0072B2" if value >= FIDELITY_BAR else "#9CC4DD" for value in fidelity]
    axes.bar(layers, fidelity, color=colours, label="directional fidelity (cosine)")
    axes.axhline(FIDELITY_BAR, color="#D55E00", ls="--", lw=1, label=f"bar at {FIDELITY_BAR:.2f}")
    axes.plot(
        layers,
        [figures.force for figures in heldout.layers],
        color="#333333", marker="o", ms=3.5, lw=1, label="force ratio ‖step‖ / ‖ideal‖",
    )  # fmt: skip
    axes.plot(
        layers,
        [max(figures.r2, -0.5) for figures in heldout.layers],
        color="#009E73", marker="^", ms=3.5, lw=1, ls=":", label="R² (cut at −0.5)",
    )  # fmt: skip
    axes.plot(
        layers,
        [max(figures.r2_before, -0.5) for figures in heldout.layers],
        color="#999999", marker="v", ms=3.5, lw=1, ls=":", label="R² of the input alone",
    )  # fmt: skip
    axes.axhline(0, color="#333333", lw=0.6)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]), top=max(1.0, axes.get_ylim()[1]))
    axes.set_xlabel("layer")
    axes.set_xticks(layers)
    axes.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return _svg(picture)


def projection_plot(projection: Projection) -> str:
    """The paper's second figure: base, input, target and steered rows on two principal axes."""
    picture, axes = _axes(5.6, 4.2)
    for name, (colour, marker) in _CLOUDS.items():
        points = np.asarray(getattr(projection, name))
        axes.scatter(points[:, 0], points[:, 1], s=14, c=colour, marker=marker, alpha=0.45, lw=0.8)
        centre = points.mean(axis=0)
        axes.scatter(
            centre[:1], centre[1:], s=120, c=colour, marker=marker, lw=2.5, label=f"{name}, mean"
        )
    first, second = projection.explained
    axes.set_xlabel(f"first axis ({first:.0%} of the variance)")
    axes.set_ylabel(f"second axis ({second:.0%})")
    axes.legend(fontsize=8)
    return _svg(picture)


def sweep_plot(evaluation: Evaluation) -> str:
    """Every figure against α, a line a contender with its 95 % interval."""
    columns = measured_columns(evaluation.points)
    series = _series(evaluation)
    swept = [point for points in series.values() for point in points]
    panels = [
        (field, heading)
        for field, heading in columns.items()
        if not swept or any(figure(point.scores, field) for point in swept)
    ]
    rows = -(-len(panels) // SWEEP_COLUMNS)
    picture = _figure(PAGE_WIDTH, 2.3 * rows + 0.6)
    grid = picture.subplots(rows, SWEEP_COLUMNS, squeeze=False)
    for axes, (field, heading) in zip(grid.flat, panels, strict=False):
        _sweep_panel(axes, evaluation, series, field)
        axes.set_title(heading, fontsize=9, loc="left")
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for axes in list(grid.flat)[max(0, len(panels) - SWEEP_COLUMNS) : len(panels)]:
        axes.set_xlabel("α")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    picture.legend(
        handles, labels, loc="outside upper center", ncols=min(5, len(labels)), fontsize=8
    )
    return _svg(picture)


def _sweep_panel(
    axes: Axes, evaluation: Evaluation, series: dict[str, list[Point]], field: str
) -> None:
    styles = zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    for number, ((label, points), style) in enumerate(zip(series.items(), styles, strict=False)):
        drawn = [(p.alpha, value) for p in points if (value := figure(p.scores, field))]
        # Bands of many contenders only hide one another; the table has all intervals.
        _line(axes, drawn, label, style, band=len(series) <= MAX_BANDS or number == 0)
    for point in evaluation.points:
        value = figure(point.scores, field)
        if value is not None and point.kind in FIXED:
            colour, dashes = _LINES[point.kind]
            axes.axhline(value.value, color=colour, ls=dashes, lw=1, label=point.label)
    if field.startswith("kl"):
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set_ylim(bottom=0)
    elif field.startswith("perplexity") and axes.get_ylim()[1] > 10 * max(axes.get_ylim()[0], 1):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def frontier_plot(evaluation: Evaluation) -> str:
    """Behaviour against NLL and against either KL; the frontier's points are ringed."""
    measures = [
        (field, heading)
        for field, heading in (
            ("kl_prompted", "KL to the prompted model, nats/token ↓"),
            ("nll", "NLL, nats/token ↓"),
            ("kl", "KL on neutral texts, nats/token ↓"),
        )
        if field in measured_columns(evaluation.points)
    ]
    picture = _figure(PAGE_WIDTH, 4.2)
    grid = picture.subplots(1, max(1, len(measures)), squeeze=False)[0]
    front = set(evaluation.frontier)
    for axes, (field, heading) in zip(grid, measures, strict=False):
        fixed = {p.label: [p] for p in evaluation.points if p.kind in FIXED}
        kinds = [points[0].kind for points in fixed.values()]
        colours = itertools.chain((_LINES[k][0] for k in kinds), itertools.cycle(COLOURS))
        markers = itertools.chain((_SIGNS[k] for k in kinds), itertools.cycle(MARKERS))
        groups = {**fixed, **_series(evaluation)}
        for (label, points), colour, marker in zip(groups.items(), colours, markers, strict=False):
            xs, ys, ringed = [], [], []
            for point in points:
                x, y = figure(point.scores, field), point.scores.behaviour
                if x is None:
                    continue
                xs.append(x.value)
                ys.append(0.0 if y is None else y.value)
                if (label, point.alpha) in front:
                    ringed.append((xs[-1], ys[-1]))
            axes.plot(xs, ys, color=colour, marker=marker, ms=5, lw=0.7, alpha=0.85, label=label)
            if ringed:
                axes.scatter(*zip(*ringed, strict=True), s=110, fc="none", ec=colour, lw=1.2)
        axes.set_xlabel(heading)
        axes.set_ylabel("behaviour ↑")
        if field.startswith("kl"):
            axes.set_xscale("symlog", linthresh=0.1)
            axes.set_xlim(left=-0.005)
    handles, labels = grid[0].get_legend_handles_labels()
    picture.legend(
        handles, labels, loc="outside upper center", ncols=min(5, len(labels)), fontsize=8
    )
    return _svg(picture)


def spectrum_plot(layers: Sequence[tuple[int, Sequence[float]]]) -> str:
    """Singular values of W − prior of each layer, largest first, on a logarithmic axis."""
    picture, axes = _axes(7.2, 3.2)
    last = max(1, *(layer for layer, _ in layers))
    shades = np.linspace(0.05, 0.92, 256)
    palette = colormaps["viridis"]
    for layer, values in layers:
        positive = [value for value in values if value > 0]
        shade = palette(shades[int(255 * layer / last)])
        axes.plot(range(1, len(positive) + 1), positive, color=shade, lw=1, label=str(layer))
    axes.set_yscale("log")
    axes.set_xlabel("number of the singular value")
    axes.set_ylabel("singular value of W − prior")
    axes.legend(title="layer", fontsize=7, ncols=2, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(picture)


def _series(evaluation: Evaluation) -> dict[str, list[Point]]:
    """Points of each contender, ascending in α."""
    series: dict[str, list[Point]] = {}
    for point in sorted(evaluation.points, key=lambda p: p.alpha):
        if point.kind not in FIXED:
            series.setdefault(point.label, []).append(point)
    order = dict.fromkeys(point.label for point in evaluation.points)
    return {label: series[label] for label in order if label in series}


def _line(
    axes: Axes,
    drawn: Sequence[tuple[float, Estimate]],
    label: str,
    style: tuple[str, str],
    *,
    band: bool,
) -> None:
    if not drawn:
        return
    colour, marker = style
    alphas = [alpha for alpha, _ in drawn]
    values = [value.value for _, value in drawn]
    axes.plot(alphas, values, color=colour, marker=marker, ms=3.5, lw=1.2, label=label)
    if band:
        lows, highs = [v.low for _, v in drawn], [v.high for _, v in drawn]
        axes.fill_between(alphas, lows, highs, color=colour, alpha=0.12, lw=0)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    picture = _figure(width, height)
    axes: Axes = picture.subplots()
    return picture, axes


def _figure(width: float, height: float) -> Figure:
    with rc_context(STYLE):
        return Figure(figsize=(width, height), layout="constrained")


def _svg(picture: Figure) -> str:
    """The drawing as an `<svg>` element without metadata or addresses of other documents."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "llamacart"}):
        picture.savefig(
            buffer,
            format="svg",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
