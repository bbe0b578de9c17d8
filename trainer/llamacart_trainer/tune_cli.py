"""`llamacart tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from llamacart_trainer.options import (
    GpuLayersOption,
    ModelOption,
    OutputOption,
    ThreadsOption,
)
from llamacart_trainer.recipe import load_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart_trainer.tuning.search import TuneResult
    from llamacart_trainer.tuning.trials import Trial

SHOWN = 12


def tune(
    recipe: Annotated[Path, typer.Argument(help="Recipe folder.")],
    minutes: Annotated[float, typer.Option(min=0, help="Time to spend.")] = 10.0,
    output: OutputOption = None,
    trials: Annotated[
        Path | None,
        typer.Option(help="Table of all trials (JSONL); one that exists is gone on from."),
    ] = None,
    model: ModelOption = None,
    gpu_layers: GpuLayersOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Choose solver, λ, δ, α, layers and pairing of a recipe by a validation split."""
    # Every `llamacart` command imports this module; only this one needs llama.cpp and SciPy.
    from llamacart.model import ALL_LAYERS, Model
    from llamacart.writer import write_cartridge
    from llamacart_trainer.evaluation.plan import final_plan, validation_plan
    from llamacart_trainer.tuning.search import tune as search

    console = Console()
    task = load_task(recipe)
    validation, test = validation_plan(recipe), final_plan(recipe)
    target = output or Path(f"{task.recipe.name}.gguf")
    offload = ALL_LAYERS if gpu_layers is None else gpu_layers

    def on_trial(trial: Trial) -> None:
        console.print(_line(trial), highlight=False)

    console.print(f"objective: {validation.objective}; behaviour: {validation.behaviour}")
    with Model(model or task.recipe.model, gpu_layers=offload, batch_invariant=True) as loaded:
        result = search(
            task,
            loaded,
            validation,
            test,
            seconds=60 * minutes,
            trials=trials,
            on_trial=on_trial,
            n_threads=threads,
        )
    size = write_cartridge(result.cartridge, target)
    console.print(_table(result))
    console.print(
        f"{result.chosen.candidate}, α = {result.chosen.alpha:g}, {size / 1e6:.2f} MB: {target}"
    )


def _line(trial: Trial) -> str:
    where = f"rung {trial.rung} {trial.candidate} α={trial.alpha:g}"
    if trial.error:
        return f"{where}: failed: {trial.error}"
    return f"{where}: {_figures(trial)} ({trial.seconds:.1f} s)"


def _figures(trial: Trial) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in trial.figures.items())


def _table(result: TuneResult) -> Table:
    """The best trials of the last rung, and the winner on the test plan."""
    last = [t for t in result.trials if t.rung == result.chosen.rung and not t.error]
    ranked = sorted(last, key=lambda trial: trial.key)[:SHOWN]
    columns = _columns(ranked)
    table = Table(title=f"{len(result.trials)} trials; validation, best first", caption="† test")
    for heading in ("settings", "α", "short", "cost", *columns):
        table.add_column(heading, justify="left" if heading == "settings" else "right")
    for trial in ranked:
        table.add_row(
            str(trial.candidate),
            f"{trial.alpha:g}",
            f"{trial.shortfall:.3f}",
            f"{trial.cost:.3f}",
            *(f"{trial.figures[name]:.3f}" for name in columns),
        )
    values = (getattr(result.test, name) for name in columns)
    figures = ("–" if value is None else value.short for value in values)
    table.add_row("† the first", f"{result.chosen.alpha:g}", "", "", *figures, style="bold")
    return table


def _columns(trials: Sequence[Trial]) -> list[str]:
    return list(trials[0].figures) if trials else []
