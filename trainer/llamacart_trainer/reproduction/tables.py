"""A reproduction as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from llamacart_trainer.evaluation.tables import figure
from llamacart_trainer.reproduction.trials import FIDELITY_BAR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamacart_trainer.evaluation.bootstrap import Estimate
    from llamacart_trainer.reproduction.trials import Experiment, PaperTrial, Variant
    from llamacart_trainer.reproduction.verdicts import Verdict


_ANSWERS = {True: "yes", False: "no", None: "cannot be told"}


def summary(experiment: Experiment, trial: PaperTrial) -> str:
    """A trial's main figures on one line, for progress."""
    scores = trial.scores
    if experiment == "moon":
        main = f"log-odds {_interval(scores.log_odds)}"
    else:
        main = f"French {_interval(scores.behaviour)}"
    return f"{main}, distinct-2 {_number(scores.distinct, 2)}, KL {_number(scores.kl, 3)}"


def figures(experiment: Experiment, trials: Sequence[PaperTrial]) -> Table:
    """Settings, layers that reach the bar, behaviour, fluency, locality: a column a trial."""
    table = Table("", title=f"{experiment}: intervals are 95 %")
    for trial in trials:
        table.add_column(trial.name, justify="right", overflow="fold")
    for heading, cells in [*_settings(trials), *_measured(experiment, trials)]:
        table.add_row(heading, *cells)
    return table


def fidelity(trials: Sequence[PaperTrial]) -> Table:
    """Fidelity and force of each layer, a column a trial."""
    fitted = [trial for trial in trials if trial.layers]
    table = Table("layer", *(trial.name for trial in fitted), title="fidelity (force) by layer")
    for layer in sorted({fit.layer for trial in fitted for fit in trial.layers}):
        row = [str(layer)]
        for trial in fitted:
            found = next((fit for fit in trial.layers if fit.layer == layer), None)
            row.append(
                "–" if found is None else f"{found.fidelity:.2f} ({found.force:.2f}) K={found.kept}"
            )
        table.add_row(*row)
    return table


def texts(trials: Sequence[PaperTrial], prompts: Sequence[str], count: int = 4) -> Table:
    """What every trial wrote after the first prompts."""
    table = Table("", *prompts[:count], title="greedy continuations", show_lines=True)
    for trial in trials:
        table.add_row(trial.name, *(" ".join(t.split()) for t in trial.scores.texts[:count]))
    return table


def verdicts(found: Sequence[Verdict]) -> Table:
    """Claims with what became of them."""
    table = Table("claim", "reproduces", "figures", title="what reproduces", show_lines=True)
    table.caption = (
        "Against a bar: by the 95 % interval. Between fits: by paired tests on the same prompts, p "
        "after Holm's correction over the experiment. α is the paper's; nothing was chosen here."
    )
    for verdict in found:
        table.add_row(verdict.claim, _ANSWERS[verdict.holds], verdict.evidence)
    return table


def _settings(trials: Sequence[PaperTrial]) -> list[tuple[str, list[str]]]:
    """A heading and a cell for each trial; empty where nothing was fitted."""

    def row(heading: str, cell: Callable[[PaperTrial, Variant], str]) -> tuple[str, list[str]]:
        return heading, ["" if t.variant is None else cell(t, t.variant) for t in trials]

    return [
        row("δ", lambda _, variant: f"{variant.threshold:g}"),
        row("λ", lambda _, variant: f"{variant.penalty:g}"),
        row("α", lambda _, variant: f"{variant.alpha:g}"),
        row("neurons", lambda trial, _: str(sum(layer.kept for layer in trial.layers))),
        row("fit, s", lambda trial, _: f"{trial.fit_seconds:.0f}"),
        row(f"≥ {FIDELITY_BAR:.2f}", lambda trial, _: _share(trial, trial.layers_at_bar)),
        row("unseen", lambda trial, _: _share(trial, trial.unseen_at_bar)),
        row("‖W‖", lambda trial, _: f"{trial.weight:.2f}"),
    ]


def _measured(experiment: Experiment, trials: Sequence[PaperTrial]) -> list[tuple[str, list[str]]]:
    """A heading and a cell, value above interval, for each trial."""
    moon = {
        "cheese likelier": ("behaviour", 2),
        "log-odds": ("log_odds", 2),
        "P(cheese)": ("p_target", 4),
        "P elsewhere": ("p_leaked", 4),
    }
    fields = moon if experiment == "moon" else {"French": ("behaviour", 2)}
    fields |= {"distinct-2": ("distinct", 2), "NLL": ("nll", 2), "KL neutral": ("kl", 3)}
    return [
        (heading, [_stacked(figure(trial.scores, field), digits) for trial in trials])
        for heading, (field, digits) in fields.items()
    ]


def _share(trial: PaperTrial, reached: int) -> str:
    return f"{reached}/{len(trial.layers)}"


def _stacked(value: Estimate | None, digits: int) -> str:
    if value is None:
        return "–"
    return f"{value.value:.{digits}f}\n{value.low:.{digits}f}–{value.high:.{digits}f}"


def _interval(value: Estimate | None) -> str:
    return "–" if value is None else value.short


def _number(value: Estimate | None, digits: int) -> str:
    return "–" if value is None else f"{value.value:.{digits}f}"
