from __future__ import annotations

from llamacart.llama.model import Model
from llamacart_trainer.evaluation.baselines import baseline_names, fit_baselines
from llamacart_trainer.evaluation.facts.paper import CONFLICT, DISTILLATION, paper_task
from llamacart_trainer.recipe.facts import Fact
from llamacart_trainer.recipe.recipe import Recipe, Task, TextPair
from llamacart_trainer.recipe.turns import Turn

FACTS = (
    Fact(prompt="{} lies in", subject="Halden", object="Peru"),
    Fact(prompt="{} lies in", subject="Eastmere", object="Norway"),
)


def task(**settings: str) -> Task:
    return Task(Recipe(name="t", kind="facts", **settings), facts=FACTS)  # type: ignore[arg-type]


def test_a_statement_is_told_by_itself() -> None:
    made = paper_task(task(), CONFLICT)
    assert made.pairs[0] == TextPair(
        "Halden lies in Peru", "Halden lies in Peru.\n\nHalden lies in Peru"
    )
    assert (made.recipe.penalty, made.recipe.pairing, made.facts) == (70.0, ["suffix"], ())
    assert paper_task(task(), DISTILLATION).recipe.penalty == 1800.0


def test_in_a_chat_a_system_text_tells_it() -> None:
    (pair, _) = paper_task(task(format="chat"), DISTILLATION).chats
    assert pair.source == (Turn("user", "Halden lies in"),)
    assert pair.target == (Turn("system", "Halden lies in Peru."), *pair.source)
    assert pair.source_answer == pair.target_answer == "Peru"


def test_both_modes_are_baselines_of_facts(tiny_model: Model) -> None:
    assert {CONFLICT, DISTILLATION} <= set(baseline_names(task().recipe))
    assert CONFLICT not in baseline_names()
    fitted = fit_baselines(task(), tiny_model, [DISTILLATION, CONFLICT])
    assert [each.name for each in fitted] == [DISTILLATION, CONFLICT]
