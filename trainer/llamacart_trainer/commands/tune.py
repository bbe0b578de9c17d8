"""`llamacart tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamacart.commands.options import (
    FlashAttentionOption,
    GpuLayersOption,
    NiceOption,
    ThreadsOption,
)
from llamacart.commands.terminal import plain_console, tells
from llamacart.machine.priority import LOWEST
from llamacart.machine.processors import ALL_LAYERS
from llamacart.values.attention import DEFAULT_ATTENTION
from llamacart_trainer.commands.options import ModelOption, OutputOption, take_turns
from llamacart_trainer.commands.outputs import check_outputs, save_cartridge
from llamacart_trainer.commands.progress import Progress, load_model
from llamacart_trainer.recipe.recipe import load_task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamacart_trainer.tuning.trials import Trial


def _what_stays(given: Mapping[str, Any]) -> str:
    trials = given["trials"]
    if trials is None:
        return "nothing is kept; with --trials FILE finished trials are"
    return f"finished trials are kept in {str(trials)!r}; the same command goes on from there"


@tells(_what_stays, full_disk=True)
def tune(
    recipe: Annotated[Path, typer.Argument(help="Recipe folder.")],
    minutes: Annotated[float, typer.Option(min=0, help="Minutes to search.")] = 10.0,
    output: OutputOption = None,
    trials: Annotated[
        Path | None,
        typer.Option(help="Table of all trials (JSONL). An existing table is continued."),
    ] = None,
    model: ModelOption = None,
    gpu_layers: GpuLayersOption = ALL_LAYERS,
    flash_attention: FlashAttentionOption = DEFAULT_ATTENTION,
    threads: ThreadsOption = None,
    nice: NiceOption = LOWEST,
) -> None:
    """Search target, solver, λ, δ or K, α, layers and pairing on validation prompts."""
    # Every `llamacart` command imports this module; only this one needs llama.cpp and SciPy.
    from llamacart_trainer.evaluation.plan import split_plans
    from llamacart_trainer.tuning.search import tune as search
    from llamacart_trainer.tuning.tables import trials_table, winner_table

    console = plain_console()
    take_turns(console, nice)
    task = load_task(recipe)
    validation, test = split_plans(task)
    target = output or Path(f"{task.recipe.name}.gguf")
    check_outputs({"--output": target, "--trials": trials})

    def on_trial(trial: Trial) -> None:
        progress.tell(_line(trial), highlight=False)
        progress.advance()

    console.print(f"objective: {validation.objective}; behaviour: {validation.behaviour}")
    with (
        Progress(console) as progress,
        load_model(model or task.recipe.model, gpu_layers, flash_attention, progress) as loaded,
    ):
        progress.stage("search", unit="trial", budget=60 * minutes)
        result = search(
            task,
            loaded,
            validation,
            test,
            seconds=60 * minutes,
            trials=trials,
            on_trial=on_trial,
            on_part=progress.part,
            n_threads=threads,
        )
    console.print(trials_table(result))
    console.print(winner_table(result))
    size = save_cartridge(result.cartridge, target)
    console.print(
        f"{result.chosen.candidate}, α = {result.chosen.alpha:g}, {size / 1e6:.2f} MB: {target}"
    )
    console.print(result.sentence, highlight=False)


def _line(trial: Trial) -> str:
    where = f"rung {trial.rung} {trial.candidate} α={trial.alpha:g}"
    if trial.error:
        return f"{where}: failed: {trial.error}"
    return f"{where}: {_figures(trial)} ({trial.seconds:.1f} s)"


def _figures(trial: Trial) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in trial.figures.items())
