"""The paper's own way to a fact, for comparison: the statement, told by what stands before it.

The paper lays what a statement is to be beside what it is by two modes of its ridge: a low λ, where
the new activations are in conflict with the model's own, and a high one, where they are distilled
into them. It knows no target but activations. Source is the statement alone, target the statement
behind itself as a premise; rows are tied from the end, since only there do both hold the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llamacart_trainer.recipe.recipe import Recipe, TextPair
from llamacart_trainer.recipe.turns import ChatPair, Turn

if TYPE_CHECKING:
    from llamacart_trainer.recipe.facts import Fact
    from llamacart_trainer.recipe.recipe import Task

CONFLICT, DISTILLATION = "paper-conflict", "paper"

PENALTIES = {DISTILLATION: 1800.0, CONFLICT: 70.0}
"""λ of the paper's modes, by the name of the baseline."""

ALPHA = 1.1
"""The paper's α for knowledge."""


def paper_task(task: Task, name: str) -> Task:
    """The facts of a task as pairs, with the paper's settings for knowledge.

    Args:
        task: A recipe of facts.
        name: A key of `PENALTIES`.
    """
    own = task.recipe
    recipe = Recipe(
        name=name,
        model=own.model,
        format=own.format,
        default_alpha=ALPHA,
        solver="ridge",
        threshold=0.02,
        penalty=PENALTIES[name],
        impact=0.04,
        pairing=["suffix"],
    )
    chat = own.format == "chat"
    return replace(
        task,
        recipe=recipe,
        facts=(),
        neutral=(),
        neutral_chats=(),
        pairs=() if chat else tuple(map(_pair, task.facts)),
        chats=tuple(map(_chat, task.facts)) if chat else (),
    )


def _pair(fact: Fact) -> TextPair:
    return TextPair(fact.statement, f"{fact.sentence}\n\n{fact.statement}")


def _chat(fact: Fact) -> ChatPair:
    asked = Turn("user", fact.text)
    return ChatPair((asked,), fact.object, (Turn("system", fact.sentence), asked), fact.object)
