"""The few figures that end a distillation, on a tiny model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.llama.model import Model
from llamacart_trainer.evaluation import locality, plan
from llamacart_trainer.evaluation.prompts import quick
from llamacart_trainer.evaluation.prompts.quick import quick_evaluation
from llamacart_trainer.evaluation.results import Measured
from llamacart_trainer.recipe.distilled import distilled_prompt
from llamacart_trainer.recipe.evaluation import EvaluationSettings
from llamacart_trainer.recipe.questions import builtin_questions
from llamacart_trainer.recipe.recipe import Recipe, Task
from llamacart_trainer.recipe.turns import Turn


@pytest.fixture(autouse=True)
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model reads bytes: the packaged texts would be 1 600 rows a point."""
    for module in (locality, plan):
        monkeypatch.setattr(module, "fixed_text", lambda _language: ("a text", "one more"))
    monkeypatch.setattr(quick, "CHOOSE_ON", 2)
    monkeypatch.setattr(quick, "TEST_ON", 3)
    monkeypatch.setattr(quick, "TOKENS", 5)


def shift(model: Model, size: float) -> Cartridge:
    neurons = np.arange(0, model.n_ff, 5)
    weight = np.zeros((len(neurons), model.n_ff))
    weight[np.arange(len(neurons)), neurons] = 1.0
    layers = tuple(
        LayerMap.from_dense(layer, neurons, weight, np.full(len(neurons), size))
        for layer in range(model.n_layer)
    )
    return Cartridge(Metadata("mine"), model.fingerprint, layers)


def test_alpha_is_chosen_on_other_messages_than_it_is_tested_on(tiny_model: Model) -> None:
    turns = (Turn("user", "Why?"), Turn("assistant", "Arr, because."))
    recipe = Recipe(name="mine", kind="prompt", prompt="Be a pirate.")
    task = Task(recipe, prompt=distilled_prompt("Be a pirate.", turns, ["What?"]))
    seen: list[str] = []
    found = quick_evaluation(
        task,
        tiny_model,
        shift(tiny_model, 0.3),
        (0.5, 1.0),
        on_point=lambda p: seen.append(p.label),
    )
    evaluation = found.evaluation
    assert evaluation.chosen_on == Measured(2, 0, 1)
    assert evaluation.tested_on == Measured(3, 0, 1)
    # Every second of the messages that ship chooses.
    assert evaluation.prompts == builtin_questions("eval")[1:6:2]
    assert seen == [
        *("prompted model", "mine", "mine"),
        *("unsteered", "prompted model", "mine"),
    ]
    kl = {p.alpha: p.scores.kl_prompted for p in evaluation.points if p.kind == "cartridge"}
    assert set(kl) == {0.5, 1.0}
    assert all(kl.values())
    assert found.alpha in kl
    assert found.sentence.startswith(f"At α {found.alpha:g} the cartridge removes ")
    assert "prompt tokens are saved a request" in found.sentence
    (mine,) = (p for p in evaluation.tests if p.kind == "cartridge")
    assert mine.scores.nll is mine.scores.perplexity_english is None
    assert evaluation.differences[0].other == "prompted model"


def test_one_alpha_is_tested_as_it_is(tiny_model: Model) -> None:
    recipe = Recipe(name="mine", kind="prompt", prompt="Be a pirate.")
    task = Task(recipe, prompt=distilled_prompt("Be a pirate.", (), ["What?"]))
    settled = replace(
        task, recipe=recipe.model_copy(update={"evaluation": EvaluationSettings(language="fr")})
    )
    found = quick_evaluation(settled, tiny_model, shift(tiny_model, 0.3), (0.8,))
    assert found.alpha == 0.8
    assert found.evaluation.chosen_on is None
    assert "behaviour 0.00 beside" in found.sentence
