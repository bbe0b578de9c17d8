"""Rows that end an answer."""

from __future__ import annotations

import dataclasses

import pytest

from llamacart_trainer.fitting.rows.endings import END_ROWS, END_WEIGHT, stress_end
from llamacart_trainer.fitting.samples import SampleBuilder
from llamacart_trainer.recipe.distilled import distilled_prompt
from llamacart_trainer.recipe.pairing import tie
from llamacart_trainer.recipe.recipe import Recipe, Task
from llamacart_trainer.recipe.turns import Exchange


@pytest.mark.parametrize("n_rows", [1, END_ROWS, END_ROWS + 3])
def test_the_last_rows_count_more(n_rows: int) -> None:
    tokens = list(range(n_rows + 1))
    sample = tie(tokens, tokens, [(i, i) for i in range(1, n_rows + 1)])
    wanted = [1.0] * max(0, n_rows - END_ROWS) + [END_WEIGHT] * min(n_rows, END_ROWS)
    assert stress_end(sample).weights == wanted
    weighted = dataclasses.replace(sample, weights=[0.5] * n_rows)
    assert stress_end(weighted).weights == [weight / 2 for weight in wanted]
    assert weighted.weights == [0.5] * n_rows


@pytest.mark.parametrize("form", ["chat", "text"])
def test_only_where_an_answer_has_an_end(tiny_model, form: str) -> None:
    recipe = Recipe(name="x", kind="prompt", prompt="Be brief.", format=form)
    task = Task(recipe, prompt=distilled_prompt("Be brief.", [], ["a?", "b?"]))
    answers = [
        Exchange("a?", "one two three four five six"),
        Exchange("b?", "one two three four five six", ended=False),
    ]
    ended, neutral, cut, _ = SampleBuilder(task.with_answers(answers), tiny_model).build()
    assert ended.weights is not None
    assert ended.weights[-END_ROWS:] == [END_WEIGHT] * END_ROWS
    assert set(ended.weights[:-END_ROWS]) == {1.0}
    assert neutral.neutral
    assert neutral.weights is None
    assert cut.weights is None
