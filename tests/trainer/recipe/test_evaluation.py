"""The `[evaluation]` table: what it accepts, and the message for what it does not."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from llamacart_trainer.recipe.evaluation import EvaluationSettings


def test_one_behaviour_only() -> None:
    with pytest.raises(ValidationError, match="language and scorer"):
        EvaluationSettings(language="fr", scorer="mine:score")
    assert EvaluationSettings(target_words=["a"], forbidden_words=["b"]).tokens is None


@pytest.mark.parametrize(
    "values",
    [{"language": "french"}, {"scorer": "nofunction"}, {"tokens": 0}, {"alphas": []}, {"x": 1}],
)
def test_refuses(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EvaluationSettings.model_validate(values)
