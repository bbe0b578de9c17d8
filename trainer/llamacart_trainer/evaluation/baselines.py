"""Other fits of the same recipe, and the control vector, to compare a cartridge with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from llamacart.errors import RecipeError
from llamacart.passes.control_vector import fit_control_vector
from llamacart_trainer.fitting.samples import SampleBuilder
from llamacart_trainer.fitting.training import train
from llamacart_trainer.recipe.recipe import Recipe, TextPair
from llamacart_trainer.recipe.turns import ChatPair
from llamacart_trainer.recipe.validation import InvalidValue
from llamacart_trainer.solvers import SOLVERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamacart.cartridge import Cartridge
    from llamacart.llama.model import Model
    from llamacart.passes.control_vector import ControlVector
    from llamacart_trainer.recipe.pairing import PairedRows
    from llamacart_trainer.recipe.recipe import Task

CONTROL_VECTOR = "control-vector"
CONTROL_VECTOR_MIDDLE = "control-vector-middle"
CONTROL_VECTORS = (CONTROL_VECTOR, CONTROL_VECTOR_MIDDLE)


def variant(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with other settings, checked as if it had been read.

    Raises:
        RecipeError: A setting does not exist or has a value out of range.
    """
    try:
        return Recipe.model_validate(recipe.model_dump(exclude_unset=True) | changes)
    except ValidationError as error:
        raise RecipeError(str(InvalidValue.first(error))) from error


def baseline_names() -> tuple[str, ...]:
    """Solvers and control vectors that `fit_baselines` knows."""
    return (*SOLVERS, *CONTROL_VECTORS)


def fit_baselines(
    task: Task,
    model: Model,
    names: Sequence[str],
    *,
    on_name: Callable[[str], None] = lambda _name: None,
    n_threads: int | None = None,
) -> list[Cartridge | ControlVector]:
    """Fit the recipe by other solvers, all else as it says.

    Args:
        task: The recipe and its pairs.
        model: The model.
        names: Some of `baseline_names`. `control-vector` adds to the residual stream at all
            layers, `control-vector-middle` at the middle one alone (CAA as published).
        on_name: Called when a fit begins.
        n_threads: Threads for llama.cpp.

    Raises:
        RecipeError: A name is unknown, or a fit fails.
    """
    unknown = [name for name in names if name not in baseline_names()]
    if unknown:
        raise RecipeError(f"baseline {unknown[0]!r} is not among {', '.join(baseline_names())}")
    fitted: list[Cartridge | ControlVector] = []
    for name in names:
        on_name(name)
        if name in CONTROL_VECTORS:
            fitted.append(_control_vector(task, model, name, n_threads))
            continue
        other = replace(task, recipe=variant(task.recipe, solver=name, name=name))
        fitted.append(train(other, model, n_threads=n_threads).cartridge)
    return fitted


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
    )
    samples = SampleBuilder(unseen, model, n_threads).build()
    return [s for s in samples if s.paired and not s.neutral and len(s.source_rows)]


def _control_vector(task: Task, model: Model, name: str, n_threads: int | None) -> ControlVector:
    middle = [model.n_layer // 2] if name == CONTROL_VECTOR_MIDDLE else None
    return fit_control_vector(
        model,
        [model.tokenize(pair.source) for pair in task.pairs],
        [model.tokenize(pair.target) for pair in task.pairs],
        layers=middle,
        name=name,
        n_threads=n_threads,
    )
