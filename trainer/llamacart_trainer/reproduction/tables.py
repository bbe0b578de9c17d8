"""A reproduction as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from llamacart_trainer.reproduction.trials import FIDELITY_BAR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart_trainer.evaluation.bootstrap import Estimate
    from llamacart_trainer.reproduction.trials import Experiment, Trial
    from llamacart_trainer.reproduction.verdicts import Verdict


def summary(experiment: Experiment, trial: Trial) -> str:
    """A trial's main figures on one line, for progress."""
    scores = trial.scores
    if experiment == "moon":
        main = f"log-odds {_interval(scores.log_odds)}"
    else:
        main = f"French {_interval(scores.behaviour)}"
    return f"{main}, distinct-2 {_number(scores.distinct, 2)}, KL {_number(scores.kl, 3)}"


def figures(experiment: Experiment, trials: Sequence[Trial]) -> Table:
    """One row a trial: settings, layers that reach the bar, behaviour, fluency, locality."""
    moon = experiment == "moon"
    behaviour = ("cheese likelier", "log-odds", "P(cheese)", "P elsewhere") if moon else ("French",)
    table = Table(
        *("", "δ", "λ", "α", "K", "s", f"≥ {FIDELITY_BAR:.2f}", "unseen", "‖W‖"),
        *behaviour,
        *("distinct-2", "NLL", "KL neutral"),
        title=f"{experiment}: intervals are 95 %",
    )
    for trial in trials:
        scores = trial.scores
        row = [trial.name, *_settings(trial)]
        if moon:
            row += [_interval(scores.behaviour), _interval(scores.log_odds)]
            row += [_number(scores.p_target, 4), _number(scores.p_leaked, 4)]
        else:
            row.append(_interval(scores.behaviour))
        row += [_interval(scores.distinct), _interval(scores.nll), _number(scores.kl, 3)]
        table.add_row(*row)
    return table


def fidelity(trials: Sequence[Trial]) -> Table:
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


def texts(trials: Sequence[Trial], prompts: Sequence[str], count: int = 4) -> Table:
    """What every trial wrote after the first prompts."""
    table = Table("", *map(escape, prompts[:count]), title="greedy continuations", show_lines=True)
    for trial in trials:
        table.add_row(
            trial.name, *(escape(" ".join(t.split())) for t in trial.scores.texts[:count])
        )
    return table


def verdicts(found: Sequence[Verdict]) -> Table:
    """Claims with what became of them."""
    table = Table("claim", "reproduces", "figures", title="what reproduces", show_lines=True)
    for verdict in found:
        table.add_row(
            escape(verdict.claim), "yes" if verdict.holds else "no", escape(verdict.evidence)
        )
    return table


def _settings(trial: Trial) -> list[str]:
    variant = trial.variant
    if variant is None:
        return [""] * 8
    reached = f"{trial.layers_at_bar}/{len(trial.layers)}"
    return [
        f"{variant.threshold:g}",
        f"{variant.penalty:g}",
        f"{variant.alpha:g}",
        str(sum(layer.kept for layer in trial.layers)),
        f"{trial.fit_seconds:.0f}",
        reached,
        f"{trial.unseen_at_bar}/{len(trial.layers)}",
        f"{trial.weight:.2f}",
    ]


def _interval(value: Estimate | None) -> str:
    return "–" if value is None else value.short


def _number(value: Estimate | None, digits: int) -> str:
    return "–" if value is None else f"{value.value:.{digits}f}"
