"""A whole evaluation from Python: with held-out figures where a task ties the pairs."""

from __future__ import annotations

from llamacart.llama.model import Model
from llamacart_trainer.evaluation.contents import Prompt
from llamacart_trainer.evaluation.evaluate import evaluate
from llamacart_trainer.evaluation.plan import EvaluationPlan
from llamacart_trainer.evaluation.scorers import words
from llamacart_trainer.fitting.training import train
from llamacart_trainer.recipe.recipe import TextPair
from llamacart_trainer.recipe.tasks import make_task

PAIRS = [(f"the red number {i}", f"le nombre rouge {i}") for i in range(5)]


def test_held_out_figures_come_with_a_task(tiny_model: Model) -> None:
    task = make_task(PAIRS, name="mine", threshold=0.1, penalty=1.0)
    cartridge = train(task, tiny_model).cartridge
    plan = EvaluationPlan(
        name="mine",
        prompts=(Prompt("the red"),),
        heldout=(TextPair("the red number 7", "le nombre rouge 7"),),
        scorer=words(["a"]),
        neutral=("stay",),
        tokens=4,
    )
    without = evaluate(tiny_model, [cartridge], plan, alphas=[0.5])
    assert [(p.label, p.alpha) for p in without.points] == [("unsteered", 0.0), ("mine", 0.5)]
    assert without.cartridges[0].heldout is None
    held_out = (
        evaluate(tiny_model, [cartridge], plan, task=task, alphas=[0.5]).cartridges[0].heldout
    )
    assert held_out is not None
    assert [layer.layer for layer in held_out.layers] == [m.layer for m in cartridge.layers]
