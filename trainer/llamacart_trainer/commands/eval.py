"""`llamacart eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamacart.cartridge import check_alpha
from llamacart.commands.options import (
    FlashAttentionOption,
    GpuLayersOption,
    NiceOption,
    ThreadsOption,
)
from llamacart.commands.terminal import plain_console, tells
from llamacart.errors import AlphaError, InputError
from llamacart.machine.priority import LOWEST
from llamacart.machine.processors import ALL_LAYERS
from llamacart.values.attention import DEFAULT_ATTENTION
from llamacart_trainer.commands.options import ModelOption, take_turns
from llamacart_trainer.commands.outputs import check_outputs, write_text
from llamacart_trainer.commands.progress import Progress, load_model
from llamacart_trainer.recipe.recipe import load_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from llamacart.cartridge import Cartridge
    from llamacart.llama.model import Model
    from llamacart_trainer.evaluation.plan import EvaluationPlan
    from llamacart_trainer.evaluation.results import Evaluation
    from llamacart_trainer.recipe.recipe import Task


@tells(lambda _given: "nothing is written; the same command begins anew")
def evaluate_cartridges(
    cartridges: Annotated[
        list[Path] | None, typer.Argument(help="Cartridge files. Without any, only baselines.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Recipe folder, for its prompts, answers, facts and evaluation settings."
        ),
    ] = None,
    model: ModelOption = None,
    alphas: Annotated[
        str | None, typer.Option(help="Values of α, e.g. 0.4,0.8. Default: the recipe's.")
    ] = None,
    baselines: Annotated[
        str | None,
        typer.Option(
            help="Also fit by these solvers, targets and baselines: 'all' or names, e.g. "
            "ridge,mean-shift,activation,control-vector. A report always has 'paper'."
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report to this HTML file.")] = None,
    store: Annotated[
        bool,
        typer.Option(
            "--store",
            help="Keep each cartridge's figures in its file, where `inspect` and the server's "
            "page show them.",
        ),
    ] = False,
    prompts: Annotated[
        int | None,
        typer.Option(
            min=1, help="Use only this many prompts, answers and facts, to choose and to test."
        ),
    ] = None,
    gpu_layers: GpuLayersOption = ALL_LAYERS,
    flash_attention: FlashAttentionOption = DEFAULT_ATTENTION,
    threads: ThreadsOption = None,
    nice: NiceOption = LOWEST,
) -> None:
    """Measure what cartridges do, each at the α that other prompts than the test's have chosen."""
    # Every `llamacart` command imports this module; only this one needs llama.cpp and SciPy.
    from llamacart.cartridge import check_fits
    from llamacart_trainer.evaluation.plan import load_plan, split_plans
    from llamacart_trainer.fitting.lengths import check_plan

    if recipe is None:
        raise InputError("eval needs --recipe FOLDER, which holds the prompts")
    strengths = None if alphas is None else parse_alphas(alphas)
    if not cartridges and baselines is None:
        raise InputError("eval needs a cartridge file, or --baselines")
    if store and not cartridges:
        raise InputError("--store needs a cartridge file to keep figures in")
    check_outputs({"--json": json_file, "--html": html, **_stores(cartridges or [], store)})
    if html is not None:
        # Missing drawing libraries are told now.
        from llamacart_trainer.report.page import render
    console = plain_console()
    take_turns(console, nice)
    task = load_task(recipe)
    several = len(set(task.recipe.evaluation.alphas) if strengths is None else strengths) > 1
    whole = split_plans(task) if several else (load_plan(task),)
    plans = tuple(plan if prompts is None else plan.first(prompts) for plan in whole)
    files = _read(cartridges or [])
    with (
        Progress(console) as progress,
        load_model(model or task.recipe.model, gpu_layers, flash_attention, progress) as loaded,
    ):
        for cartridge in files:
            check_fits(cartridge, loaded.fingerprint)
        for plan in plans:  # before baselines are fitted
            check_plan(loaded, plan)
        names = _baseline_names(baselines, task, report=html is not None)
        evaluation = _compare(loaded, files, names, task, plans, strengths, progress, threads)
    show(evaluation, console)
    if json_file is not None:
        write_text(json_file, evaluation.to_json())
    if html is not None:
        write_text(html, render(evaluation))
    if store:
        _store(evaluation, cartridges or [], files)


def parse_alphas(text: str) -> list[float]:
    """Numbers of a comma-separated list, ascending, each once.

    Raises:
        AlphaError: One of them is no number within ±10.
    """
    try:
        return sorted({check_alpha(float(part)) for part in text.split(",")})
    except ValueError as error:
        raise AlphaError(f"--alphas has value {text!r}; numbers with commas are needed") from error


def show(evaluation: Evaluation, console: Console) -> None:
    """Print the tables."""
    from llamacart_trainer.evaluation.facts.tables import facts_in_terminal
    from llamacart_trainer.evaluation.prompts.closing import closing_sentences
    from llamacart_trainer.evaluation.tables import (
        best_table,
        differences_table,
        held_out_table,
        points_table,
    )

    console.print(f"{evaluation.model}\nbehaviour: {evaluation.behaviour}")
    console.print(points_table(evaluation))
    console.print(best_table(evaluation))
    for found in (facts_in_terminal(evaluation), differences_table(evaluation)):
        if found is not None:
            console.print(found)
    for facts in evaluation.cartridges:
        table = held_out_table(facts)
        if table is not None:
            console.print(table)
    for sentence in closing_sentences(evaluation):
        console.print(sentence, highlight=False)


def _stores(paths: Sequence[Path], store: bool) -> dict[str, Path | None]:
    """The files that are to be written, by what an error calls them."""
    return {f"--store of file {n}": path for n, path in enumerate(paths, 1)} if store else {}


def _store(evaluation: Evaluation, paths: Sequence[Path], files: Sequence[Cartridge]) -> None:
    """Keep the figures of each file in it; files come first among the contenders."""
    from llamacart.file.figures import write_diagnostics
    from llamacart_trainer.report.stored import with_evaluation

    measured = evaluation.cartridges[: len(files)]
    for path, cartridge, facts in zip(paths, files, measured, strict=True):
        write_diagnostics(path, cartridge, with_evaluation(cartridge, evaluation, facts.name))


def _read(files: Sequence[Path]) -> list[Cartridge]:
    from llamacart.file.reader import read_cartridge

    return [read_cartridge(file) for file in files]


def _baseline_names(wanted: str | None, task: Task, *, report: bool) -> list[str]:
    """The names; a report always has the paper's way beside what is newer."""
    from llamacart_trainer.evaluation.baselines import PAPER, baseline_names

    if wanted == "all":
        return list(baseline_names(task.recipe))
    names = [] if wanted is None else wanted.split(",")
    return [*names, PAPER] if report and PAPER not in names else names


def _compare(
    model: Model,
    files: Sequence[Cartridge],
    names: Sequence[str],
    task: Task,
    plans: tuple[EvaluationPlan, ...],
    alphas: Sequence[float] | None,
    progress: Progress,
    threads: int | None,
) -> Evaluation:
    from llamacart_trainer.evaluation.baselines import answered, fit_baselines
    from llamacart_trainer.evaluation.evaluate import evaluate
    from llamacart_trainer.evaluation.sweep import point_count

    if names and task.prompt is not None and task.prompt.answers is None:
        asked = len(task.prompt.questions)
        progress.stage("answers", unit="answer", total=asked)
        task = answered(
            task, model, on_part=lambda _, share: progress.within(asked * share), n_threads=threads
        )
    progress.stage("fit", unit="baseline", total=len(names))

    def on_name(name: str) -> None:
        progress.reach(names.index(name))
        progress.doing(name)

    fitted = fit_baselines(
        task, model, names, on_name=on_name, on_part=progress.part, n_threads=threads
    )
    contenders = [*files, *fitted]
    progress.stage("measure", unit="point", total=point_count(plans, len(contenders), alphas))

    *validation, test = plans
    return evaluate(
        model,
        contenders,
        test,
        validation=validation[0] if validation else None,
        task=task,
        alphas=alphas,
        on_point=lambda _point: progress.advance(),
        on_part=progress.part,
        n_threads=threads,
    )
