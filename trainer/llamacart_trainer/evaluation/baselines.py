"""Other fits of the same recipe, and the control vector, to compare a cartridge with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from llamacart.errors import RecipeError
from llamacart.passes.control_vector import fit_control_vector
from llamacart.values.near import did_you_mean
from llamacart_trainer.evaluation.facts.paper import CONFLICT, PENALTIES, paper_task
from llamacart_trainer.evaluation.work import CHARACTERS, LayersDone, Work
from llamacart_trainer.fitting.samples import SampleBuilder
from llamacart_trainer.fitting.training import train
from llamacart_trainer.recipe.recipe import Recipe, TextPair
from llamacart_trainer.recipe.target import OF_TEXTS, TargetKeys
from llamacart_trainer.recipe.turns import ChatPair
from llamacart_trainer.recipe.validation import InvalidValue
from llamacart_trainer.solvers import SOLVERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from llamacart.cartridge import Cartridge
    from llamacart.llama.model import Model
    from llamacart.passes.control_vector import ControlVector
    from llamacart_trainer.evaluation.work import OnPart
    from llamacart_trainer.recipe.pairing import PairedRows
    from llamacart_trainer.recipe.recipe import Task

CONTROL_VECTOR = "control-vector"
CONTROL_VECTOR_MIDDLE = "control-vector-middle"
CONTROL_VECTORS = (CONTROL_VECTOR, CONTROL_VECTOR_MIDDLE)

PAPER = "paper"
"""The paper's own way: its target, its solver and its settings."""

TARGETS: tuple[str, ...] = OF_TEXTS

_KEPT = {"layers", "skip_layers", "neutral_weight"}
_OF_TARGETS = {*TargetKeys.model_fields, "impact"} - _KEPT
"""Keys whose meaning or scale is another with another target."""


def variant(recipe: Recipe, *, without: Iterable[str] = (), **changes: Any) -> Recipe:
    """The recipe with other settings, checked as if it had been read.

    Args:
        recipe: The recipe.
        without: Keys that are to have their defaults.
        changes: Keys and their values.

    Raises:
        RecipeError: A setting does not exist or has a value out of range.
    """
    kept = recipe.model_dump(exclude_unset=True, exclude=set(without))
    try:
        return Recipe.model_validate(kept | changes)
    except ValidationError as error:
        raise RecipeError(str(InvalidValue.first(error))) from error


def baseline_names(recipe: Recipe | None = None) -> tuple[str, ...]:
    """Solvers, targets, control vectors and the paper's way, which `fit_baselines` knows.

    Args:
        recipe: Of which; a target of another text is nothing for facts, for which the paper has two
            ways.
    """
    if recipe is not None and recipe.kind == "facts":
        return (*SOLVERS, PAPER, CONFLICT)
    return (*SOLVERS, *TARGETS, PAPER, *CONTROL_VECTORS)


def baseline_recipe(recipe: Recipe, name: str) -> Recipe:
    """The recipe by another solver, with another target, or as the paper would have it.

    A target that is not the recipe's own has the defaults in all that depends on it. The paper ties
    rows by position, unless a recipe's texts are made to be tied by `suffix`.

    Raises:
        RecipeError: The recipe does not allow it.
    """
    if name in SOLVERS:
        return variant(recipe, solver=name, name=name)
    if name in TARGETS:
        return variant(recipe, without=target_keys(recipe, name), target=name, name=name)
    changes: dict[str, Any] = {"solver": "ridge", "penalty": 100.0, "impact": 0.05, "rank": "full"}
    if recipe.kind == "pairs" and recipe.pairing != ["suffix"]:
        changes["pairing"] = ["position"]
    without = {*_OF_TARGETS, "neutral_weight"}
    return variant(recipe, without=without, name=name, **changes)


def target_keys(recipe: Recipe, target: str) -> set[str]:
    """Keys that are to have their defaults where a recipe's target is to be `target`."""
    return set() if target == recipe.target else _OF_TARGETS


def fit_baselines(
    task: Task,
    model: Model,
    names: Sequence[str],
    *,
    on_name: Callable[[str], None] = lambda _name: None,
    on_part: OnPart = lambda _what, _share: None,
    n_threads: int | None = None,
) -> list[Cartridge | ControlVector]:
    """Fit the recipe in other ways, all else as it says.

    Args:
        task: The recipe and its data.
        model: The model.
        names: Some of `baseline_names`: see `baseline_recipe`. `control-vector` adds to the
            residual stream at all layers, `control-vector-middle` at the middle one alone (CAA as
            published).
        on_name: Called when a fit begins.
        on_part: Called as it goes on.
        n_threads: Threads for llama.cpp.

    Raises:
        RecipeError: A name is unknown, or a fit fails.
    """
    known = baseline_names(task.recipe)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RecipeError(
            f"baseline {unknown[0]!r} is not among {', '.join(known)}"
            f"{did_you_mean(unknown[0], known)}"
        )
    fitted: list[Cartridge | ControlVector] = []
    if names:
        task = answered(task, model, on_part=on_part, n_threads=n_threads)
    for name in names:
        on_name(name)
        if name in CONTROL_VECTORS:
            with Work(on_part, 2 * _rows_of(task)).on(name, "fit"):
                fitted.append(_control_vector(task, model, name, n_threads))
            continue
        if task.facts and name in PENALTIES:
            other = paper_task(task, name)
        else:
            other = task.with_recipe(baseline_recipe(task.recipe, name))
        told = LayersDone(name, on_part)
        result = train(
            other, model, on_layers=told.on_layers, on_layer=told.on_layer, n_threads=n_threads
        )
        fitted.append(result.cartridge)
    return fitted


def answered(
    task: Task,
    model: Model,
    *,
    on_part: OnPart = lambda _what, _share: None,
    n_threads: int | None = None,
) -> Task:
    """The task with the model's answers behind the prompt that it distils, given once for all fits.

    A task that distils none, or whose answers are known, is as it was.
    """
    if task.prompt is None or task.prompt.answers is not None:
        return task
    rows = len(task.prompt.questions) * task.recipe.answer_tokens
    with Work(on_part, rows).on("answers", "answers"):
        return task.with_answers(SampleBuilder(task, model, n_threads).answers)


def held_out_samples(
    task: Task, model: Model, pairs: Sequence[TextPair | ChatPair], *, n_threads: int | None = None
) -> list[PairedRows]:
    """Held-out pairs tied as the recipe ties its training pairs; none where it ties no rows.

    Texts that are to stay as they are have no part in it: they would flatter every fit.

    Raises:
        RecipeError: A pair does not suit the recipe's pairing.
    """
    unseen = replace(
        task,
        pairs=tuple(pair for pair in pairs if isinstance(pair, TextPair)),
        chats=tuple(pair for pair in pairs if isinstance(pair, ChatPair)),
        neutral=(),
        neutral_chats=(),
        facts=(),
    )
    samples = SampleBuilder(unseen, model, n_threads).build()
    return [s for s in samples if s.paired and not s.neutral and len(s.source_rows)]


def _rows_of(task: Task) -> int:
    """Rows of the target side of a task's texts, about."""
    said = sum(len(pair.target) for pair in task.pairs)
    said += sum(len(chat.target_answer) for chat in task.chats)
    return said // CHARACTERS


def _control_vector(task: Task, model: Model, name: str, n_threads: int | None) -> ControlVector:
    middle = [model.n_layer // 2] if name == CONTROL_VECTOR_MIDDLE else None
    if task.pairs:
        return fit_control_vector(
            model,
            [model.tokenize(pair.source) for pair in task.pairs],
            [model.tokenize(pair.target) for pair in task.pairs],
            layers=middle,
            name=name,
            n_threads=n_threads,
        )
    # Of conversations what is said counts, not what stands before it.
    samples = [s for s in SampleBuilder(task, model, n_threads).build() if not s.neutral]
    return fit_control_vector(
        model,
        [sample.source for sample in samples],
        [sample.target for sample in samples],
        source_rows=[sample.source_rows for sample in samples],
        target_rows=[sample.target_rows for sample in samples],
        layers=middle,
        name=name,
        n_threads=n_threads,
    )
