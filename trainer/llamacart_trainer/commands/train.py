"""`llamacart train`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamacart.cli import layer_table
from llamacart.commands.options import (
    FlashAttentionOption,
    GpuLayersOption,
    NiceOption,
    ThreadsOption,
)
from llamacart.commands.terminal import plain_console, tells
from llamacart.errors import InputError, LlamacartError, RecipeError
from llamacart.machine.priority import LOWEST
from llamacart.machine.processors import ALL_LAYERS
from llamacart.values.attention import DEFAULT_ATTENTION
from llamacart_trainer.commands.options import ModelOption, OutputOption, take_turns
from llamacart_trainer.commands.outputs import beside, check_outputs, save_cartridge
from llamacart_trainer.commands.progress import Progress, load_model
from llamacart_trainer.recipe.own_pairs import for_model, id_of, pairs_task
from llamacart_trainer.recipe.recipe import load_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llamacart.llama.model import Model
    from llamacart_trainer.fitting.memory import MemoryPlan
    from llamacart_trainer.fitting.settings import LayerReport
    from llamacart_trainer.fitting.training import TrainResult
    from llamacart_trainer.recipe.recipe import Task

SHOWN = ("layer", "candidates", "kept", "mean_step", "fidelity", "force", "r2")
"""Figures of a layer that fit a terminal's 80 columns; the cartridge holds them all."""


def _job_folder(task: Task, output: Path | None, job: Path | None) -> Path:
    target = output or Path(f"{task.recipe.name}.gguf")
    return job or beside(target, ".job")


def _load(recipe: Path | None, pairs: Path | None, name: str | None, output: Path | None) -> Task:
    """What is to be fitted: a recipe, or pairs without one."""
    if recipe is not None and pairs is not None:
        raise InputError(
            f"recipe {str(recipe)!r} and --pairs {str(pairs)!r} are both given; keep one"
        )
    if recipe is not None:
        if name is not None:
            raise InputError(f"--name has value {name!r}, but a recipe has a name of its own")
        return load_task(recipe)
    if pairs is None:
        raise InputError("a recipe folder is needed, or --pairs with a file of pairs")
    return pairs_task(pairs, name or (None if output is None else id_of(output.stem)))


def _what_stays(given: Mapping[str, Any]) -> str:
    from llamacart_trainer.fitting.job import kept

    try:
        task = _load(given["recipe"], given["pairs"], given["name"], given["output"])
        return kept(_job_folder(task, given["output"], given["job"]))
    except LlamacartError:  # the recipe itself cannot be read
        return "nothing is kept"


@tells(_what_stays, full_disk=True)
def train(
    recipe: Annotated[
        Path | None, typer.Argument(help="Recipe folder, or a data set in the paper's JSON.")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="File of pairs (JSON Lines, CSV, TSV), in place of a recipe."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the cartridge, with --pairs. Default: the file's.")
    ] = None,
    model: ModelOption = None,
    output: OutputOption = None,
    job: Annotated[
        Path | None,
        typer.Option(
            help="Folder for checkpoints. An interrupted run resumes from it. Default: "
            "<output>.job, removed at the end."
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Delete existing checkpoints and start over.")
    ] = False,
    gpu_layers: GpuLayersOption = ALL_LAYERS,
    flash_attention: FlashAttentionOption = DEFAULT_ATTENTION,
    threads: ThreadsOption = None,
    nice: NiceOption = LOWEST,
    max_ubatch_rows: Annotated[
        int | None, typer.Option(help="Tokens to compute at once. Default: 1024.")
    ] = None,
    max_memory: Annotated[
        float | None,
        typer.Option(
            help="GiB for activations. Default: half of the memory that this process may use. "
            "If they need more, texts run once for each layer."
        ),
    ] = None,
) -> None:
    """Fit a cartridge from a recipe, or from a file of pairs."""
    # Every `llamacart` command imports this module; only this one needs llama.cpp and SciPy.
    from llamacart_trainer.fitting.cascade import MAX_UBATCH_ROWS

    limits = {
        "max_ubatch_rows": MAX_UBATCH_ROWS if max_ubatch_rows is None else max_ubatch_rows,
        "max_memory": None if max_memory is None else int(max_memory * 2**30),
        "n_threads": threads,
    }
    console = plain_console()
    take_turns(console, nice)
    task = _load(recipe, pairs, name, output)
    target = output or Path(f"{task.recipe.name}.gguf")
    folder = _job_folder(task, output, job)
    check_outputs({"--output": target}, {"--job": folder})
    started = time.perf_counter()
    with (
        Progress(console) as progress,
        load_model(
            model or task.recipe.model, gpu_layers, flash_attention, progress, batch_invariant=False
        ) as loaded,
    ):
        told = f"{loaded.name}: {loaded.fingerprint.architecture}, {loaded.n_layer} layers"
        progress.tell(told)
        loading = time.perf_counter() - started
        task = task if pairs is None else for_model(task, loaded)
        try:
            settings = {**limits, "job": folder, "restart": restart}
            result = fit_with_progress(task, loaded, progress, settings)
        except RecipeError:
            # Another run would come to the same end.
            if job is None:
                _remove_job(folder)
            raise
    rows = [report.as_json() for report in result.layers]
    console.print(layer_table([{name: row[name] for name in SHOWN} for row in rows]))
    writing = time.perf_counter()
    size = save_cartridge(result.cartridge, target)
    if job is None:
        _remove_job(folder)
    seconds = {"load the model": loading, **result.seconds}
    seconds["write"] = time.perf_counter() - writing
    if result.restored:
        console.print(f"{result.restored} layers were restored from {folder}")
    for phase, value in seconds.items():
        console.print(f"{phase:<16} {value:6.2f} s")
    console.print(f"{'total':<16} {time.perf_counter() - started:6.2f} s")
    console.print(
        f"{_said(task)}, {result.n_rows} rows, {result.cartridge.n_active} active "
        f"neurons, {size / 1e6:.2f} MB: {target}"
    )


def fit_with_progress(
    task: Task, model: Model, progress: Progress, settings: Mapping[str, Any]
) -> TrainResult:
    """Fit a cartridge and tell of it; `settings` are those of `train`."""
    from llamacart_trainer.fitting.training import train as fit

    progress.stage("prepare")
    layers: list[int] = []
    plans: list[str] = []
    finished = 0

    def on_answers(done: int, total: int) -> None:
        if done == 0:
            progress.stage("answers", unit="answer", total=total)
        progress.reach(done)

    def on_phase(phase: str) -> None:
        if plans:
            progress.doing(phase)

    def on_layer(_report: LayerReport) -> None:
        nonlocal finished
        finished += 1
        if plans:
            progress.advance()

    def on_layers(chosen: Sequence[int]) -> None:
        layers[:] = chosen

    def on_plan(plan: MemoryPlan) -> None:
        if not plans:  # by now restored layers are counted
            progress.stage("train", unit="layer", total=len(layers), done=finished)
        told = str(plan)
        if told not in plans:
            plans.append(told)
            progress.tell(f"memory: {told}", highlight=False)

    return fit(
        task,
        model,
        on_phase=on_phase,
        on_answers=on_answers,
        on_part=progress.within,
        on_layers=on_layers,
        on_layer=on_layer,
        on_plan=on_plan,
        on_notice=lambda notice: progress.tell(notice, highlight=False),
        **settings,
    )


def _said(task: Task) -> str:
    """How much there was to learn from."""
    if task.prompt is not None:
        return f"{len(task.prompt.questions)} questions"
    if task.facts:
        return f"{len(task.facts)} facts"
    return f"{len(task.pairs) + len(task.chats)} pairs"


def _remove_job(folder: Path) -> None:
    from llamacart_trainer.fitting.job import remove_job

    remove_job(folder)
