"""Other ways to fit one recipe: solvers, targets, the paper's, and control vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamacart.errors import RecipeError
from llamacart.llama.model import Model
from llamacart.passes.control_vector import ControlVector
from llamacart_trainer.evaluation.baselines import (
    PAPER,
    TARGETS,
    baseline_names,
    baseline_recipe,
    fit_baselines,
)
from llamacart_trainer.fitting import samples
from llamacart_trainer.fitting.answers import answer
from llamacart_trainer.recipe.distilled import distilled_prompt
from llamacart_trainer.recipe.recipe import Recipe, Task, load_task
from llamacart_trainer.recipe.turns import Turn
from llamacart_trainer.solvers import SOLVERS

ASKED = ("What is rum?", "What is a sail?", "What is the sea?", "What is gold?")


def recipe(**settings: object) -> Recipe:
    return Recipe.model_validate({"name": "mine", **settings})


def test_every_name_makes_a_recipe() -> None:
    assert {"residual", "activation"} <= set(TARGETS)
    names = [name for name in baseline_names() if "control" not in name]
    assert set(names) == {*SOLVERS, *TARGETS, PAPER}
    for own in (recipe(), recipe(target="residual", neurons=9), recipe(kind="prompt", prompt="p")):
        for name in names:
            assert baseline_recipe(own, name).name == name


def test_another_target_has_the_defaults_in_what_depends_on_it() -> None:
    own = recipe(
        target="residual", neurons=9, step=0.5, penalty=0.7, layers=[1, 2], solver="mean-shift"
    )
    same = baseline_recipe(own, "residual")
    assert (same.neurons, same.step, same.penalty) == (9, 0.5, 0.7)
    other = baseline_recipe(own, "activation")
    assert (other.target, other.penalty, other.threshold) == ("activation", 300.0, 0.03)
    assert (other.layers, other.solver) == ([1, 2], "mean-shift")
    back = baseline_recipe(recipe(penalty=3.0, threshold=0.1, impact=0.2), "residual")
    assert (back.target, back.penalty, back.impact) == ("residual", 0.1, 0.0)
    solver = baseline_recipe(own, "ridge")
    assert (solver.solver, solver.target, solver.neurons) == ("ridge", "residual", 9)


def test_the_papers_own_way() -> None:
    paper = baseline_recipe(recipe(target="residual", neurons=9, rank=2, neutral="builtin"), PAPER)
    assert (paper.target, paper.solver, paper.penalty) == ("activation", "ridge", 100.0)
    assert (paper.threshold, paper.impact, paper.pairing) == (0.03, 0.05, ["position"])
    assert (paper.rank, paper.neutral) == ("full", "builtin")
    contexts = baseline_recipe(recipe(pairing=["suffix"]), PAPER)
    assert contexts.pairing == ["suffix"]
    assert baseline_recipe(recipe(kind="prompt", prompt="p"), PAPER).kind == "prompt"


def test_a_prompt_is_answered_once_for_all_fits(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counted(model: Model, writer: Any, conversations: Any, *args: Any, **more: Any) -> Any:
        asked.append(len(conversations))
        return answer(model, writer, conversations, *args, **more)

    monkeypatch.setattr(samples, "answer", counted)
    turns = (Turn("user", "Why?"), Turn("assistant", "Arr, so."))
    own = recipe(
        kind="prompt", prompt="Be a pirate.", target="residual", neurons=9, answer_tokens=6
    )
    task = Task(own, prompt=distilled_prompt("Pirate.", turns, ASKED))
    names = ["residual", "activation", PAPER, "mean-shift", "control-vector"]
    fitted = fit_baselines(task, tiny_model, names)
    assert asked == [len(ASKED)]
    assert [each.name for each in fitted] == names
    vector = fitted[-1]
    assert isinstance(vector, ControlVector)
    assert vector.directions[1].any()
    assert len({getattr(each, "content_hash", "vector") for each in fitted}) == len(names)
    assert task.prompt
    assert task.prompt.answers is None


def test_a_control_vector_of_chats_is_of_what_is_said(tiny_model: Model, tmp_path: Path) -> None:
    """A longer context before the same answers' rows moves their mean, not its own."""
    lines = [
        {"prompt": f"What is {word}?", "source": f"It is {word}.", "target": f"{word}, arr!"}
        for word in ("rum", "gold", "a sail")
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    text = 'name = "mine"\nformat = "chat"\npairing = ["position"]\n'
    (tmp_path / "recipe.toml").write_text(text)
    (vector,) = fit_baselines(load_task(tmp_path), tiny_model, ["control-vector"])
    assert isinstance(vector, ControlVector)
    assert vector.directions[1].any()


def test_an_unknown_name_is_refused(tiny_model: Model) -> None:
    with pytest.raises(RecipeError, match=r"'magic' is not among .*residual, paper, control-vec"):
        fit_baselines(Task(recipe()), tiny_model, ["magic"])
