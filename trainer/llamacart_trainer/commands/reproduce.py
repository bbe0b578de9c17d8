"""`llamacart reproduce paper`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamacart import __version__
from llamacart.commands.options import (
    FlashAttentionOption,
    GpuLayersOption,
    NiceOption,
    ThreadsOption,
)
from llamacart.commands.terminal import plain_console, tells
from llamacart.errors import NotFoundError
from llamacart.machine.priority import LOWEST
from llamacart.machine.processors import ALL_LAYERS
from llamacart.values.attention import DEFAULT_ATTENTION
from llamacart_trainer.commands.options import take_turns
from llamacart_trainer.commands.outputs import check_outputs, save_cartridge, write_text
from llamacart_trainer.commands.progress import Progress, load_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamacart.cartridge import Cartridge
    from llamacart.llama.model import Model
    from llamacart_trainer.reproduction.trials import Experiment, PaperTrial, Variant
    from llamacart_trainer.reproduction.verdicts import Verdict


class Subject(StrEnum):
    """What can be reproduced."""

    PAPER = "paper"


class ExperimentChoice(StrEnum):
    """The paper's experiments."""

    LANGUAGE = "language"
    MOON = "moon"


@dataclass(frozen=True)
class Reproduction:
    """Everything a run found; its JSON is what `--json` writes.

    Attributes:
        model: Name of the model.
        fingerprint: Architecture and shape.
        trials: By experiment.
        verdicts: By experiment.
        created: ISO 8601 time, UTC.
        tool_version: Version of llamacart.
    """

    model: str
    fingerprint: str
    trials: dict[Experiment, tuple[PaperTrial, ...]]
    verdicts: dict[Experiment, tuple[Verdict, ...]]
    created: str
    tool_version: str = __version__

    def to_json(self) -> str:
        """Indented JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def _what_stays(given: Mapping[str, Any]) -> str:
    output = given["output"]
    if output is None:
        return "nothing is kept; the same command begins anew"
    return f"cartridges fitted so far are in {str(output)!r}; the same command begins anew"


@tells(_what_stays)
def reproduce(
    subject: Annotated[Subject, typer.Argument(help="What to reproduce.")],
    data: Annotated[
        Path,
        typer.Option(
            help="Folder that holds the paper's data, france_ds.json and moon_cheese_ds.json."
        ),
    ],
    model: Annotated[
        str, typer.Option(help="GGUF file, 'demo' or hf:<owner>/<repo>/<file>.")
    ] = "demo",
    only: Annotated[
        ExperimentChoice | None, typer.Option(help="One experiment instead of both.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures to this file.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for the cartridges.")
    ] = None,
    gpu_layers: GpuLayersOption = ALL_LAYERS,
    flash_attention: FlashAttentionOption = DEFAULT_ATTENTION,
    threads: ThreadsOption = None,
    nice: NiceOption = LOWEST,
) -> None:
    """Fit the paper's cartridges with its settings and say which of its claims hold."""
    from llamacart_trainer.reproduction.trials import FILES

    chosen: tuple[Experiment, ...] = ("language", "moon") if only is None else (only.value,)
    for experiment in chosen:
        if not (data / FILES[experiment]).is_file():
            raise NotFoundError(f"data set {str(data / FILES[experiment])!r} does not exist")
    check_outputs({"--json": json_file}, {"--output": output})
    console = plain_console()
    take_turns(console, nice)
    with (
        Progress(console) as progress,
        load_model(model, gpu_layers, flash_attention, progress) as loaded,
    ):
        progress.tell(f"{subject.value} on {loaded.name}: {loaded.fingerprint}")
        trials: dict[Experiment, tuple[PaperTrial, ...]] = {}
        verdicts: dict[Experiment, tuple[Verdict, ...]] = {}
        for experiment in chosen:
            trials[experiment], verdicts[experiment] = _one(
                experiment, loaded, data, progress, output, threads
            )
        found = Reproduction(
            model=loaded.name,
            fingerprint=str(loaded.fingerprint),
            trials=trials,
            verdicts=verdicts,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    if json_file is not None:
        write_text(json_file, found.to_json())
        console.print(f"figures: {json_file}")


def _one(
    experiment: Experiment,
    model: Model,
    data: Path,
    progress: Progress,
    output: Path | None,
    threads: int | None,
) -> tuple[tuple[PaperTrial, ...], tuple[Verdict, ...]]:
    from llamacart.passes.watching import watching
    from llamacart_trainer.reproduction import tables
    from llamacart_trainer.reproduction.prompts import QUESTIONS, STORIES
    from llamacart_trainer.reproduction.trials import run_experiment, trial_count
    from llamacart_trainer.reproduction.verdicts import judge

    def keep(variant: Variant, cartridge: Cartridge) -> None:
        if output is not None:
            save_cartridge(cartridge, output / f"{experiment}-{variant.name}.gguf")

    def tell(trial: PaperTrial) -> None:
        figures = tables.summary(experiment, trial)
        progress.tell(
            f"  {experiment}: {trial.name} ({trial.about}), {trial.fit_seconds:.0f} s: {figures}"
        )
        progress.advance()

    progress.stage(experiment, unit="trial", total=trial_count(experiment))
    tokens = 0

    def count(n_rows: int) -> None:
        nonlocal tokens
        tokens += n_rows
        progress.doing(f"{tokens} tokens")

    with watching(count):
        trials = run_experiment(
            experiment, model, data, on_trial=tell, on_cartridge=keep, n_threads=threads
        )
    found = judge(experiment, trials)
    prompts = [english for english, _ in QUESTIONS] if experiment == "language" else STORIES
    progress.tell(tables.figures(experiment, trials))
    progress.tell(tables.fidelity(trials))
    progress.tell(tables.texts(trials, prompts))
    progress.tell(tables.verdicts(found))
    return trials, found
