"""The layers that a recipe asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacart.errors import RecipeError

if TYPE_CHECKING:
    from llamacart_trainer.recipe.recipe import Recipe


def chosen_layers(recipe: Recipe, n_layer: int) -> list[int]:
    """Layers to fit: those of the recipe's range that it does not skip.

    Raises:
        RecipeError: The model has no such layer, or none is left.
    """
    # The last layer's rows are the dearest, and hardly a gap is left there.
    last = -2 if recipe.closes_gap and n_layer > 1 else -1
    ends = [0, last] if recipe.layers is None else recipe.layers
    for name, values in (("skip_layers", recipe.skip_layers), ("layers", ends)):
        for layer in values:
            if not -n_layer <= layer < n_layer:
                raise RecipeError(
                    f"recipe {recipe.name!r}: {name} has value {layer}; the model has "
                    f"{n_layer} layers"
                )
    skipped = {layer % n_layer for layer in recipe.skip_layers}
    first, last = (layer % n_layer for layer in ends)
    wanted = [layer for layer in range(first, last + 1) if layer not in skipped]
    if not wanted:
        keys = "skip_layers leaves" if first <= last else f"layers has value {ends}, which names"
        raise RecipeError(f"recipe {recipe.name!r}: {keys} no layer")
    return wanted
