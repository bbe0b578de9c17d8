"""From a recipe to a cartridge: tokenise, capture the targets, run the cascade, assemble."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from llamacart import __version__
from llamacart.capture import capture
from llamacart.cartridge import Cartridge, Metadata
from llamacart.errors import RecipeError
from llamacart.generate import greedy
from llamacart_trainer.cascade import MAX_UBATCH_ROWS, Cascade
from llamacart_trainer.fitting import FitSettings, LayerReport
from llamacart_trainer.pairing import PAIRINGS, PairedRows, tie_positions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from llamacart.model import Model
    from llamacart_trainer.recipe import Task


@dataclass(frozen=True)
class TrainResult:
    """A cartridge and how it came about.

    Attributes:
        cartridge: Not yet written.
        layers: Figures of every layer, ascending.
        n_rows: Paired rows N.
        seconds: Wall time of each phase.
    """

    cartridge: Cartridge
    layers: tuple[LayerReport, ...]
    n_rows: int
    seconds: dict[str, float]


@dataclass
class _Stopwatch:
    seconds: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.perf_counter)

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = now - self._since
        self._since = now


def train(
    task: Task,
    model: Model,
    *,
    on_phase: Callable[[str], None] = lambda _phase: None,
    on_layer: Callable[[LayerReport], None] = lambda _report: None,
    max_ubatch_rows: int = MAX_UBATCH_ROWS,
    n_threads: int | None = None,
) -> TrainResult:
    """Fit the cartridge that a recipe describes.

    Args:
        task: The recipe and its pairs.
        model: The model to fit it for.
        on_phase: Called when a phase begins, with its name.
        on_layer: Called with each layer's figures.
        max_ubatch_rows: Stream the cascade above this number of source rows.
        n_threads: Threads for llama.cpp.

    Raises:
        RecipeError: The pairs leave nothing to fit, or activations are not finite.
    """
    recipe = task.recipe
    watch = _Stopwatch()
    on_phase("tokenise")
    samples = list(_samples(task, model, n_threads))
    source_rows = _source_rows(samples)
    if len(source_rows) < 2:
        raise RecipeError(f"recipe {recipe.name!r}: its pairs give {len(source_rows)} paired rows")
    watch.lap("tokenise")
    on_phase("capture targets")
    layers = _layers(task, model)
    targets = _capture_targets(model, samples, layers, n_threads)
    watch.lap("capture targets")
    on_phase("fit the cascade")
    cascade = Cascade(
        model=model,
        sequences=[s.source for s in samples],
        rows=source_rows,
        targets=targets,
        settings=FitSettings(recipe.threshold, recipe.penalty, recipe.solver, recipe.impact),
        layers=layers,
        on_layer=on_layer,
        max_ubatch_rows=max_ubatch_rows,
        n_threads=n_threads,
    )
    cascade.run()
    watch.lap("fit the cascade")
    reports = tuple(cascade.reports)
    if not cascade.maps:
        found = sum(report.candidates for report in reports)
        raise RecipeError(
            f"recipe {recipe.name!r}: no active neuron is left in any layer ({found} passed "
            f"threshold {recipe.threshold}, none passed impact {recipe.impact}); are source and "
            "target the same text?"
        )
    cartridge = Cartridge(
        metadata=_metadata(task, reports, len(source_rows), watch.seconds),
        fingerprint=model.fingerprint,
        layers=tuple(cascade.maps[layer] for layer in sorted(cascade.maps)),
    )
    return TrainResult(cartridge, reports, len(source_rows), watch.seconds)


def _samples(task: Task, model: Model, n_threads: int | None) -> Iterator[PairedRows]:
    """Every pairing of every pair, with greedy continuations where the recipe wants them."""
    recipe = task.recipe
    for name in recipe.pairing:
        pairing = PAIRINGS[name]
        plain = [pairing(model.tokenize, p.source, p.target, i) for i, p in enumerate(task.pairs)]
        if name != "position":
            yield from plain
            continue
        left = [
            recipe.generate_source if p.source_tokens is None else p.source_tokens
            for p in task.pairs
        ]
        right = [
            recipe.generate_target if p.target_tokens is None else p.target_tokens
            for p in task.pairs
        ]
        yield from _with_continuations(plain, left, right, model, n_threads)


def _with_continuations(
    plain: Sequence[PairedRows],
    left: Sequence[int],
    right: Sequence[int],
    model: Model,
    n_threads: int | None,
) -> Iterator[PairedRows]:
    """Append the model's own greedy continuations (the paper's way) and tie the rows anew."""
    if not any(left) and not any(right):
        yield from plain
        return
    sources = [list(s.source) for s in plain]
    targets = [list(s.target) for s in plain]
    grown_left = greedy(model, sources, left, n_threads=n_threads)
    grown_right = greedy(model, targets, right, n_threads=n_threads)
    for source, more, target, other in zip(sources, grown_left, targets, grown_right, strict=True):
        yield tie_positions(source + more, target + other)


def _layers(task: Task, model: Model) -> list[int]:
    """Layers to fit: all but those the recipe skips."""
    skipped = task.recipe.skip_layers
    for layer in skipped:
        if not -model.n_layer <= layer < model.n_layer:
            raise RecipeError(
                f"recipe {task.recipe.name!r}: skip_layers has value {layer}; the model has "
                f"{model.n_layer} layers"
            )
    wanted = sorted(set(range(model.n_layer)) - {layer % model.n_layer for layer in skipped})
    if not wanted:
        raise RecipeError(f"recipe {task.recipe.name!r}: skip_layers leaves no layer")
    return wanted


def _source_rows(samples: Sequence[PairedRows]) -> NDArray[np.int64]:
    """Paired source rows [N], numbered over all sequences."""
    starts = np.cumsum([0, *(len(sample.source) for sample in samples)])
    return np.array(
        [starts[n] + i for n, sample in enumerate(samples) for i, _ in sample.rows], np.int64
    )


def _capture_targets(
    model: Model, samples: Sequence[PairedRows], layers: Sequence[int], n_threads: int | None
) -> dict[int, NDArray[np.float32]]:
    """Target activations [N, D] of each layer; a text that several pairings share runs once."""
    texts = list(dict.fromkeys(tuple(sample.target) for sample in samples))
    starts = dict(zip(texts, np.cumsum([0, *map(len, texts)])[:-1], strict=True))
    rows = np.array(
        [starts[tuple(sample.target)] + j for sample in samples for _, j in sample.rows], np.int64
    )
    unique, place = np.unique(rows, return_inverse=True)
    captured = capture(model, texts, layers=layers, rows=unique, n_threads=n_threads)
    return {layer: values[place] for layer, values in captured.items()}


def _metadata(
    task: Task, reports: Sequence[LayerReport], n_rows: int, seconds: dict[str, float]
) -> Metadata:
    recipe = task.recipe
    settings: dict[str, Any] = {
        "threshold": recipe.threshold,
        "penalty": recipe.penalty,
        "prior": recipe.prior,
        "impact": recipe.impact,
        "pairing": list(recipe.pairing),
        "skip_layers": list(recipe.skip_layers),
        "generate_source": recipe.generate_source,
        "generate_target": recipe.generate_target,
    }
    diagnostics: dict[str, Any] = {
        "pairs": len(task.pairs),
        "rows": n_rows,
        "seconds": {phase: round(value, 3) for phase, value in seconds.items()},
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
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tool_version=__version__,
    )
