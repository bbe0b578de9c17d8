"""Cartridges fitted on the paper's data with its settings and with others, and their figures."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from llamacart_trainer.evaluation.evaluator import Evaluator
from llamacart_trainer.evaluation.heldout import HeldOutEvaluator
from llamacart_trainer.fitting.training import train
from llamacart_trainer.recipe.pairing import position
from llamacart_trainer.recipe.recipe import Recipe, Task, load_task
from llamacart_trainer.reproduction.prompts import (
    language_pairs,
    language_plan,
    moon_pairs,
    moon_plan,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llamacart.cartridge import Cartridge
    from llamacart.llama.model import Model
    from llamacart_trainer.evaluation.plan import EvaluationPlan
    from llamacart_trainer.evaluation.results import HeldOut, Scores

Experiment = Literal["language", "moon"]

FILES: dict[Experiment, str] = {
    "language": "france_ds.json",
    "moon": "moon_cheese_ds.json",
}
"""Name of each experiment's data set in the paper's folder."""

PLANS: dict[Experiment, Callable[[], EvaluationPlan]] = {
    "language": language_plan,
    "moon": moon_plan,
}
"""What is measured in each experiment."""

LIMIT = 1e9
"""A λ so large that W is its prior: the limit that an ablation asks for."""

FIDELITY_BAR = 0.80
"""The paper's bar of directional fidelity."""


@dataclass(frozen=True)
class Variant:
    """One way to fit a cartridge on a data set of the paper.

    Attributes:
        name: Short, unique in its experiment.
        about: What it is, in plain words.
        solver: `ridge` (the paper) or `ridge-identity`.
        threshold: δ.
        penalty: λ.
        impact: Least mean step of a neuron that is kept.
        alpha: Strength it is used at.
        continuations: Whether the model's own greedy continuations are captured too, as many
            tokens as the data set says (the paper); otherwise the written texts alone.
    """

    name: str
    about: str
    solver: str
    threshold: float
    penalty: float
    impact: float
    alpha: float
    continuations: bool = True


PAPER_FRENCH = Variant(
    "paper", "the paper's settings", "ridge", 0.03, 100.0, impact=0.05, alpha=0.8
)
DISTILLATION = Variant(
    "distillation", "the paper's settings (λ > 1500)", "ridge", 0.02, 1800.0, impact=0.04, alpha=1.1
)

VARIANTS: dict[Experiment, tuple[Variant, ...]] = {
    "language": (
        PAPER_FRENCH,
        replace(
            PAPER_FRENCH, name="mean-replace", about="the paper's ridge as λ → ∞", penalty=LIMIT
        ),
        replace(
            PAPER_FRENCH,
            name="mean-shift",
            about="a constant added at the same neurons",
            solver="ridge-identity",
            penalty=LIMIT,
        ),
        replace(
            PAPER_FRENCH,
            name="paper-pairs-only",
            about="the paper's settings without continuations",
            continuations=False,
        ),
        Variant(
            "ours",
            "prior: identity, no continuations",
            "ridge-identity",
            0.02,
            1000.0,
            impact=0.0,
            alpha=0.8,
            continuations=False,
        ),
    ),
    "moon": (
        replace(DISTILLATION, name="conflict", about="the paper's λ ≈ 70", penalty=70.0),
        DISTILLATION,
        replace(
            DISTILLATION, name="mean-replace", about="the paper's ridge as λ → ∞", penalty=LIMIT
        ),
        replace(
            DISTILLATION,
            name="mean-shift",
            about="a constant added at the same neurons",
            solver="ridge-identity",
            penalty=LIMIT,
        ),
        Variant(
            "ours",
            "prior: identity, no continuations",
            "ridge-identity",
            0.02,
            300.0,
            impact=0.0,
            alpha=1.1,
            continuations=False,
        ),
    ),
}


@dataclass(frozen=True)
class LayerFit:
    """Directional fidelity and force of one layer's map on the rows it was fitted on.

    Attributes:
        layer: Index.
        kept: Active neurons K.
        fidelity: Cosine between the ideal step (target − input) and the applied one.
        force: Length of the applied step over that of the ideal one.
        weight: ‖W‖, Frobenius norm of the map's matrix: 0 for mean replacement, √K for a mean
            shift.
    """

    layer: int
    kept: int
    fidelity: float
    force: float
    weight: float


@dataclass(frozen=True)
class PaperTrial:
    """A variant, fitted and measured.

    Attributes:
        name: Of the variant, or `unsteered` or `ceiling`, which have nothing from `variant` on.
        about: What it is, in plain words.
        scores: Behaviour, fluency, locality.
        variant: Settings.
        layers: Figures on the rows it was fitted on (the paper's first figure).
        unseen: The same on pairs of our own, with the projection of one layer (its second).
        pairs: Pairs of texts.
        rows: Paired rows N.
        fit_seconds: Wall time from texts to cartridge.
    """

    name: str
    about: str
    scores: Scores
    variant: Variant | None = None
    layers: tuple[LayerFit, ...] = ()
    unseen: HeldOut | None = None
    pairs: int = 0
    rows: int = 0
    fit_seconds: float = 0.0

    @property
    def layers_at_bar(self) -> int:
        """Layers whose directional fidelity reaches the paper's bar."""
        return sum(layer.fidelity >= FIDELITY_BAR for layer in self.layers)

    @property
    def unseen_at_bar(self) -> int:
        """The same on unseen pairs."""
        layers = self.unseen.layers if self.unseen else ()
        return sum(layer.fidelity >= FIDELITY_BAR for layer in layers)

    @property
    def weight(self) -> float:
        """Mean ‖W‖ over the layers."""
        return float(np.mean([layer.weight for layer in self.layers])) if self.layers else 0.0


def task_of(path: Path, variant: Variant) -> Task:
    """The data set at `path` as a task with the settings of `variant`.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: It is no data set in the paper's shape.
    """
    read = load_task(path)
    recipe = Recipe(
        name=f"paper-{variant.name}",
        solver=variant.solver,
        threshold=variant.threshold,
        penalty=variant.penalty,
        impact=variant.impact,
        pairing=["position"],
        default_alpha=variant.alpha,
    )
    pairs = read.pairs
    if not variant.continuations:
        pairs = tuple(replace(pair, source_tokens=0, target_tokens=0) for pair in pairs)
    return replace(read, recipe=recipe, pairs=pairs)


def trial_count(experiment: Experiment) -> int:
    """How many trials `run_experiment` makes: the variants', the model's and the ceiling's."""
    has_ceiling = any(prompt.reference is not None for prompt in PLANS[experiment]().prompts)
    return len(VARIANTS[experiment]) + 1 + has_ceiling


def run_experiment(
    experiment: Experiment,
    model: Model,
    data: Path,
    *,
    variants: Sequence[Variant] | None = None,
    plan: EvaluationPlan | None = None,
    on_trial: Callable[[PaperTrial], None] = lambda _trial: None,
    on_cartridge: Callable[[Variant, Cartridge], None] = lambda _variant, _cartridge: None,
    n_threads: int | None = None,
) -> tuple[PaperTrial, ...]:
    """Fit and measure every variant of an experiment, after the unsteered model.

    Args:
        experiment: Which.
        model: The model.
        data: Folder of the paper's data sets.
        variants: Instead of `VARIANTS`.
        plan: What is measured, instead of the experiment's own plan.
        on_trial: Called with each trial, for progress.
        on_cartridge: Called with each cartridge, to keep it.
        n_threads: Threads for llama.cpp.

    Raises:
        NotFoundError: The data set is not in the folder.
        RecipeError: It cannot be used.
    """
    path = data / FILES[experiment]
    chosen = VARIANTS[experiment] if variants is None else variants
    tasks = [task_of(path, variant) for variant in chosen]
    pairs = language_pairs() if experiment == "language" else moon_pairs()
    unseen = [position(model.tokenize, *texts, n) for n, texts in enumerate(pairs)]
    heldout = HeldOutEvaluator(model, unseen, n_threads)
    judge = Evaluator(model, plan or PLANS[experiment](), n_threads=n_threads)
    trials = [PaperTrial("unsteered", "the model itself", judge.score(None, 0.0))]
    on_trial(trials[0])
    ceiling = judge.ceiling()
    if ceiling is not None:
        trials.append(PaperTrial("ceiling", "the model after prompts written in French", ceiling))
        on_trial(trials[-1])
    for variant, task in zip(chosen, tasks, strict=True):
        started = time.perf_counter()
        result = train(task, model, n_threads=n_threads)
        seconds = time.perf_counter() - started
        on_cartridge(variant, result.cartridge)
        norms = _weights(result.cartridge)
        trials.append(
            PaperTrial(
                name=variant.name,
                about=variant.about,
                scores=judge.score(result.cartridge, variant.alpha),
                variant=variant,
                layers=tuple(
                    LayerFit(r.layer, r.kept, r.fidelity, r.force, norms[r.layer])
                    for r in result.layers
                    if r.kept
                ),
                unseen=heldout.score(result.cartridge),
                pairs=len(task.pairs),
                rows=result.n_rows,
                fit_seconds=seconds,
            )
        )
        on_trial(trials[-1])
    return tuple(trials)


def _weights(cartridge: Cartridge) -> dict[int, float]:
    """‖W‖ of each layer; a cartridge stores W − E_S."""
    norms = {}
    for layer_map in cartridge.layers:
        weight = layer_map.dense_delta(cartridge.fingerprint.n_ff).copy()
        weight[np.arange(len(layer_map.neurons)), layer_map.neurons] += 1.0
        norms[layer_map.layer] = float(np.linalg.norm(weight))
    return norms
