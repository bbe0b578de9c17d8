"""A task from pairs of texts that a program holds, where `load_task` reads one from a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from llamacart.errors import RecipeError
from llamacart_trainer.recipe.pairing import check_suffix
from llamacart_trainer.recipe.recipe import BUILTIN, Recipe, Task, TextPair, builtin_neutral
from llamacart_trainer.recipe.validation import InvalidValue

if TYPE_CHECKING:
    from collections.abc import Iterable


def make_task(
    pairs: Iterable[TextPair | tuple[str, str]],
    *,
    name: str,
    neutral: Iterable[str] = (),
    **settings: Any,
) -> Task:
    """A recipe and its training data.

    Args:
        pairs: (source, target): a text in the model's own manner, and as it is wanted.
        name: Short id of the cartridge.
        neutral: Texts that the cartridge is to leave alone, or `"builtin"` for those of
            `builtin_neutral`.
        settings: Fields of `Recipe`, such as `penalty` or `pairing`.

    Raises:
        RecipeError: A setting does not exist or has a value out of range; there is no pair; or a
            text is empty or does not suit the pairing.
    """
    if isinstance(neutral, str):
        if neutral != BUILTIN:
            raise RecipeError(f"neutral has value {neutral!r}; texts or {BUILTIN!r} are needed")
        neutral, settings = builtin_neutral(), {**settings, "neutral": BUILTIN}
    try:
        recipe = Recipe.model_validate({"name": name, **settings})
    except ValidationError as error:
        first = InvalidValue.first(error)
        raise RecipeError(str(first), param=first.key or None) from error
    given = tuple(p if isinstance(p, TextPair) else TextPair(*p) for p in pairs)
    if not given:
        raise RecipeError(f"recipe {name!r} has no pairs")
    for number, pair in enumerate(given):
        _check_text(pair.source, f"source of pair {number}")
        _check_text(pair.target, f"target of pair {number}")
        if "suffix" in recipe.pairing:
            check_suffix(pair.source, pair.target, f"pair {number}")
    left_alone = tuple(neutral)
    for number, text in enumerate(left_alone):
        _check_text(text, f"neutral text {number}")
    return Task(recipe, given, left_alone)


def _check_text(text: object, what: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise RecipeError(f"{what} has value {text!r}; a text is needed")
