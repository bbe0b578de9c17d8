"""From a recipe to a cartridge: pair the texts' rows, run the cascade, assemble."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from llamacart import __version__
from llamacart.cartridge import Cartridge, Metadata
from llamacart.errors import CartridgeFormatError, InputError, RecipeError
from llamacart.file.condition import check_when
from llamacart.machine.memory import default_memory
from llamacart.machine.processors import choose_threads
from llamacart.values.steering import UNSTEERED, Dose
from llamacart_trainer.fitting.cascade import MAX_UBATCH_ROWS, Cascade
from llamacart_trainer.fitting.chunks import split, with_idle
from llamacart_trainer.fitting.coverage import check_answers, check_coverage, cut_answers
from llamacart_trainer.fitting.facts.stages import find_stages
from llamacart_trainer.fitting.identity import fit_facts
from llamacart_trainer.fitting.job import NO_JOB, Job
from llamacart_trainer.fitting.layers import chosen_layers
from llamacart_trainer.fitting.lengths import (
    check_facts,
    check_prompt,
    check_samples,
    check_task,
)
from llamacart_trainer.fitting.samples import SampleBuilder
from llamacart_trainer.fitting.settings import FitSettings, LayerReport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from llamacart.cartridge import LayerMap
    from llamacart.llama.model import Model
    from llamacart_trainer.fitting.answers import OnAnswers, OnPart
    from llamacart_trainer.fitting.chunks import SampleChunk
    from llamacart_trainer.fitting.memory import MemoryPlan
    from llamacart_trainer.recipe.pairing import PairedRows
    from llamacart_trainer.recipe.recipe import Recipe, Task
    from llamacart_trainer.recipe.turns import Exchange


@dataclass(frozen=True)
class TrainResult:
    """A cartridge and how it came about.

    Attributes:
        cartridge: Not yet written.
        layers: Figures of every layer, ascending.
        n_rows: Source rows N that were fitted.
        seconds: Wall time of each phase; `run the model` and `fit` take turns.
        restored: Layers that an earlier run had finished.
        answers: What the model said behind a prompt that was distilled; some may be empty.
    """

    cartridge: Cartridge
    layers: tuple[LayerReport, ...]
    n_rows: int
    seconds: dict[str, float]
    restored: int = 0
    answers: tuple[Exchange, ...] = ()


@dataclass
class _Trainer:
    """What the phases of one training share."""

    task: Task
    model: Model
    cascade: Cascade
    builder: SampleBuilder
    max_ubatch_rows: int
    on_phase: Callable[[str], None]
    on_notice: Callable[[str], None]
    on_layers: Callable[[Sequence[int]], None]
    n_rows: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """Fit all layers; the cascade holds the result."""
        if self.task.facts:
            self._find_stages()
        self.on_layers(self.cascade.layers)
        if self.builder.regenerates:
            self.cascade.run_anew(self.chunks)
        else:
            self.cascade.run(self.chunks({}))

    def _find_stages(self) -> None:
        """Say which layers teach facts, and what they do."""
        since = time.perf_counter()
        self.on_phase("prepare")
        cascade = self.cascade
        cascade.stages = find_stages(
            self.model,
            self.builder.facts,
            self.task.recipe.margin,
            cascade.layers if self.task.recipe.layers or self.task.recipe.skip_layers else None,
            waits=bool(self.task.when),
            n_threads=cascade.n_threads,
        )
        cascade.layers = sorted(layer for stage in cascade.stages for layer in stage.layers)
        self.seconds["prepare"] = time.perf_counter() - since

    def chunks(self, maps: Mapping[int, LayerMap]) -> list[SampleChunk]:
        """Samples as they are where `maps` act on the sources' continuations."""
        since = time.perf_counter()
        self.on_phase("prepare")
        partial = _assemble(self.model, maps, Metadata("partial"))
        samples = self.builder.build((Dose(partial, 1.0),) if maps else UNSTEERED)
        check_samples(self.model, samples)
        notices = (
            check_coverage(self.task, samples),
            check_answers(self.task, self.builder.answers),
        )
        for notice in notices if not maps else ():  # once, where sources are continued anew
            if notice is not None:
                self.on_notice(notice)
        self.n_rows = _count_rows(self.task, samples)
        to_gap = self.cascade.settings.closes_gap
        chunks = split(samples, self.max_ubatch_rows, to_gap=to_gap)
        if self.builder.acts is not None:
            chunks = [with_idle(chunk, self.builder.acts) for chunk in chunks]
        self.on_phase("fit the cascade")
        self.seconds["prepare"] = self.seconds.get("prepare", 0) + time.perf_counter() - since
        return chunks


def train(
    task: Task,
    model: Model,
    *,
    on_phase: Callable[[str], None] = lambda _phase: None,
    on_layers: Callable[[Sequence[int]], None] = lambda _layers: None,
    on_layer: Callable[[LayerReport], None] = lambda _report: None,
    on_plan: Callable[[MemoryPlan], None] = lambda _plan: None,
    on_notice: Callable[[str], None] = lambda _notice: None,
    on_answers: OnAnswers = lambda _done, _total: None,
    on_part: OnPart = lambda _part: None,
    max_ubatch_rows: int = MAX_UBATCH_ROWS,
    max_memory: int | None = None,
    n_threads: int | None = None,
    job: Path | None = None,
    restart: bool = False,
) -> TrainResult:
    """Fit the cartridge that a recipe describes.

    The result depends on the arguments alone: nothing in the cartridge varies from run to run.

    Args:
        task: The recipe and its data.
        model: The model to fit it for.
        on_phase: Called when a phase begins, with its name.
        on_layers: Called with the layers that are to be fitted, once they are known.
        on_layer: Called with each layer's figures.
        on_plan: Called with the way through the layers and what it takes, before they run.
        on_notice: Called with what the writer of the pairs should know, before the fit.
        on_answers: Called as the model answers behind a prompt, with the numbers of answers that
            are there and that there will be.
        on_part: Called with how many answers those under way are worth by now.
        max_ubatch_rows: Tokens that run at once.
        max_memory: Bytes that activations may take; see `Cascade`. None means half of what this
            process may use.
        n_threads: Threads for llama.cpp.
        job: Folder of checkpoints; what it holds is not computed again. The caller removes it.
        restart: Drop what is in the job folder.

    Raises:
        RecipeError: The pairs leave nothing to fit, a text is longer than the model reads, or
            activations are not finite.
        InputError: The job folder is of another fit.
    """
    max_memory = default_memory() if max_memory is None else max_memory
    for name, value in (("max_ubatch_rows", max_ubatch_rows), ("max_memory", max_memory)):
        if value < 1:
            raise InputError(f"{name} has value {value}; at least 1 is needed", param=name)
    recipe = task.recipe
    check_task(model, recipe, task.pairs, task.neutral)
    check_prompt(model, task)
    check_facts(model, task.facts)
    try:
        check_when(task.when)
    except CartridgeFormatError as error:
        raise RecipeError(f"recipe {recipe.name!r}: {error.message}") from error
    started = time.perf_counter()
    threads = choose_threads(n_threads)
    limits = {"rows": max_ubatch_rows, "bytes": max_memory, "threads": threads}
    cascade = Cascade(
        model=model,
        settings=FitSettings(
            recipe.threshold,
            recipe.penalty,
            recipe.solver,
            recipe.impact,
            recipe.rank,
            recipe.storage,
            recipe.target,
            recipe.neurons,
            recipe.neutral_weight,
            recipe.step,
        ),
        layers=chosen_layers(recipe, model.n_layer),
        paired="distribution" not in recipe.pairing,
        job=NO_JOB if job is None else open_job(task, model, job, limits, restart=restart),
        on_layer=on_layer,
        on_plan=on_plan,
        max_memory=max_memory,
        n_threads=n_threads,
    )
    builder = SampleBuilder(task, model, n_threads, cascade.job, on_answers, on_part)
    trainer = _Trainer(
        task, model, cascade, builder, max_ubatch_rows, on_phase, on_notice, on_layers
    )
    trainer.run()
    reports = tuple(cascade.reports)
    if not cascade.maps:
        raise _nothing_left(recipe, reports)
    if not trainer.n_rows:  # every layer was restored, and no sample had to be made again
        trainer.chunks({})
    metadata = _metadata(task, reports, trainer.n_rows, builder.answers)
    seconds = {**trainer.seconds, "fit": cascade.seconds}
    seconds["run the model"] = time.perf_counter() - started - sum(seconds.values())
    return TrainResult(
        cartridge=replace(_assemble(model, cascade.maps, metadata), when=task.when),
        layers=reports,
        n_rows=trainer.n_rows,
        seconds=seconds,
        restored=cascade.restored,
        answers=builder.answers,
    )


def open_job(
    task: Task, model: Model, folder: Path, limits: Mapping[str, int], *, restart: bool = False
) -> Job:
    """The job folder of a fit; see `Job` for what it refuses.

    Args:
        task: The recipe and its data.
        model: The model.
        folder: Where checkpoints are kept.
        limits: Rows, bytes and threads, on which rounding depends.
        restart: Drop what is in the folder.
    """
    return Job(folder, fit_facts(task, model, limits), model.fingerprint, restart=restart)


def _nothing_left(recipe: Recipe, reports: Sequence[LayerReport]) -> RecipeError:
    found = sum(report.candidates for report in reports)
    chosen = f"{found} passed threshold {recipe.threshold}"
    if recipe.closes_gap:
        chosen = f"{found} would close a gap"
    return RecipeError(
        f"recipe {recipe.name!r}: no active neuron is left in any layer ({chosen}, none passed "
        f"impact {recipe.impact}); are source and target the same text?"
    )


def _count_rows(task: Task, samples: Sequence[PairedRows]) -> int:
    """Source rows N, refused where they are too few to fit anything."""
    n_rows = sum(len(sample.source_rows) for sample in samples)
    taught = sum(len(sample.source_rows) for sample in samples if not sample.neutral)
    if taught < 2:
        raise RecipeError(f"recipe {task.recipe.name!r}: its pairs give {taught} paired rows")
    return n_rows


def _assemble(model: Model, maps: Mapping[int, LayerMap], metadata: Metadata) -> Cartridge:
    return Cartridge(metadata, model.fingerprint, tuple(maps[layer] for layer in sorted(maps)))


def _metadata(
    task: Task, reports: Sequence[LayerReport], n_rows: int, answers: Sequence[Exchange]
) -> Metadata:
    recipe = task.recipe
    settings: dict[str, Any] = {
        key: getattr(recipe, key)
        for key in (
            "target",
            *(("neurons", "step") if recipe.closes_gap else ("threshold",)),
            *(
                ("margin", *(() if task.when else ("neighbours",)))
                if recipe.kind == "facts"
                else ()
            ),
            "penalty",
            "rank",
            "storage",
            "impact",
            "pairing",
            "capture",
            "neutral_weight",
            "layers",
            "skip_layers",
            "generate_source",
            "generate_target",
        )
    }
    diagnostics: dict[str, Any] = {
        **_counts(task, answers),
        "neutral texts": len(task.neutral) + len(task.neutral_chats),
        "rows": n_rows,
        "layers": [report.as_json() for report in reports],
    }
    return Metadata(
        name=recipe.name,
        description=recipe.description,
        default_alpha=recipe.default_alpha,
        solver=recipe.solver,
        settings=settings,
        dataset_hash=task.dataset_hash,
        diagnostics=diagnostics,
        created=creation_time(),
        tool_version=__version__,
    )


def _counts(task: Task, answers: Sequence[Exchange]) -> dict[str, int]:
    if task.facts:
        return {"facts": len(task.facts)}
    if task.prompt is None:
        return {"pairs": len(task.pairs) + len(task.chats)}
    empty = sum(not exchange.text.strip() for exchange in answers)
    return {
        "answers": len(answers) - empty,
        "empty answers": empty,
        "cut answers": cut_answers(answers),
    }


def creation_time() -> str:
    """What a cartridge tells of its age: SOURCE_DATE_EPOCH as ISO 8601, or nothing.

    The clock would make two fits of one recipe differ. Source of the variable:
    https://reproducible-builds.org/specs/source-date-epoch/

    Raises:
        InputError: The variable is no number of seconds.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return ""
    try:
        return datetime.fromtimestamp(int(epoch), UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(f"SOURCE_DATE_EPOCH has value {epoch!r}; seconds are needed") from error
