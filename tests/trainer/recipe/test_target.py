"""Keys that say what a layer is fitted to, and which of them go together."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from llamacart_trainer.recipe.recipe import Recipe
from llamacart_trainer.recipe.target import RANK, RELATIVE_PENALTY


def recipe(**values: object) -> Recipe:
    return Recipe.model_validate({"name": "t", **values})


def test_the_default_penalty_is_of_the_target() -> None:
    assert recipe().penalty == 300.0
    assert recipe(target="residual").penalty == RELATIVE_PENALTY
    assert recipe(target="residual", penalty=0.1).penalty == 0.1
    assert recipe(target="residual", penalty="auto").penalty == "auto"


def test_a_penalty_that_was_not_given_follows_a_change_of_target() -> None:
    given = recipe(target="residual").model_dump(exclude_unset=True)
    assert Recipe.model_validate(given | {"target": "activation"}).penalty == 300.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 0.1, "target": "residual"}, "threshold has value 0.1, .* 'residual'"),
        ({"neurons": 3}, "neurons has value 3, .* 'activation'"),
        ({"step": 0.5}, "step has value 0.5, .* 'activation'"),
        ({"target": "residual", "pairing": ["distribution"]}, "ties no rows; target 'residual'"),
        ({"target": "residual", "neurons": 0}, "neurons"),
        ({"target": "residual", "step": 0}, "step"),
        ({"target": "logits"}, "target"),
        ({"neutral_weight": 0}, "neutral_weight"),
        ({"layers": [1]}, "layers"),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(**values)


def test_a_recipe_that_was_written_out_whole_is_read_again() -> None:
    for target in ("activation", "residual"):
        whole = recipe(target=target)
        assert Recipe.model_validate(whole.model_dump()) == whole


@pytest.mark.parametrize(
    ("settings", "rank"),
    [
        ({}, "full"),
        ({"target": "residual"}, RANK),
        ({"target": "residual", "solver": "ridge"}, "full"),
        ({"target": "residual", "prior": "zero"}, "full"),
        ({"target": "residual", "rank": "full"}, "full"),
        ({"target": "residual", "when": ["the hotel"]}, "full"),
        ({"kind": "prompt", "examples": "e.jsonl"}, RANK),
        ({"kind": "facts"}, "full"),
        ({"kind": "facts", "rank": 7}, 7),
        ({"solver": "ridge", "rank": "auto"}, "auto"),
        ({"rank": "full"}, "full"),
    ],
)
def test_the_default_rank_is_of_the_target(settings: dict[str, object], rank: object) -> None:
    recipe = Recipe.model_validate({"name": "x", **settings})
    assert recipe.rank == rank
    assert ("rank" in recipe.model_fields_set) == ("rank" in settings)
