"""Texts that a model cannot read whole, found before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacart.errors import RecipeError
from llamacart.file.texts import shown
from llamacart_trainer.fitting.facts.samples import leads
from llamacart_trainer.recipe.records import TextPair, where_of
from llamacart_trainer.recipe.writer import writer_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llamacart.llama.model import Model
    from llamacart_trainer.evaluation.plan import EvaluationPlan
    from llamacart_trainer.recipe.facts import Fact
    from llamacart_trainer.recipe.pairing import PairedRows
    from llamacart_trainer.recipe.recipe import Recipe, Task


def check_task(
    model: Model, recipe: Recipe, pairs: Iterable[TextPair], neutral: Iterable[str]
) -> None:
    """Refuse training texts that are longer than what the model was trained to read.

    A token has at least one byte, so that most texts need not be tokenised for it.

    Raises:
        RecipeError: It names the text, its tokens and the model's limit.
    """
    for number, pair in enumerate(pairs):
        for name, text, own, default in (
            ("source", pair.source, pair.source_tokens, recipe.generate_source),
            ("target", pair.target, pair.target_tokens, recipe.generate_target),
        ):
            grown = default if own is None else own
            check_length(model, text, f"pair {number}", name, grown)
    for number, text in enumerate(neutral):
        check_length(model, text, f"neutral text {number}", "text")


def check_plan(model: Model, plan: EvaluationPlan) -> None:
    """Refuse prompts, answers, facts and held-out pairs that are too long; neutral texts are cut.

    Raises:
        RecipeError: As `check_task`.
    """
    for number, prompt in enumerate(plan.prompts):
        check_length(model, prompt.text, f"prompt {number}", "prompt", plan.tokens)
        if prompt.reference is not None:
            check_length(model, prompt.reference, f"prompt {number}", "reference", plan.tokens)
    for number, answer in enumerate(plan.answers):
        behind = max(_count(model, answer.target), _count(model, answer.original))
        check_length(model, answer.prompt, f"answer {number}", "prompt", behind)
    for number, fact in enumerate(plan.facts):
        check_length(model, fact.text, f"fact {number}", "prompt", _count(model, fact.object))
    for number, pair in enumerate(plan.heldout):
        if not isinstance(pair, TextPair):  # what its template makes of it is looked at later
            continue
        for name, text in (("source", pair.source), ("target", pair.target)):
            check_length(model, text, f"held-out pair {number}", name)


def check_prompt(model: Model, task: Task) -> None:
    """Refuse a prompt that leaves no room for a question and its answer.

    Raises:
        RecipeError: As `check_task`, or the model's chat template cannot be used.
        InputError: It refuses the turns.
    """
    if task.prompt is None:
        return
    writer, more = writer_for(task.recipe, model), task.recipe.answer_tokens
    for question in task.prompt.questions:
        n_tokens = len(writer.opened(task.prompt.asked(question))) + more
        where = f"recipe {task.recipe.name!r}: prompt with question {shown(question)}"
        _check(model, n_tokens, where, f"what is read with {more} tokens to follow")


def check_facts(model: Model, facts: Iterable[Fact]) -> None:
    """Refuse facts that leave no room for what their prompts are put behind.

    Raises:
        RecipeError: As `check_task`.
    """
    for number, fact in enumerate(facts):
        longest = max(leads(fact), key=len)
        check_length(model, longest + fact.statement, f"fact {number}", "text")


def check_samples(model: Model, samples: Iterable[PairedRows]) -> None:
    """Refuse token sequences that a pairing has made too long of texts that are not.

    Raises:
        RecipeError: As `check_task`.
    """
    for sample in samples:
        n_tokens = max(len(sample.source), len(sample.target))
        _check(model, n_tokens, f"pair {sample.group}", "what its pairing makes of it")


def check_length(model: Model, text: str, otherwise: str, name: str, more: int = 0) -> None:
    """Refuse a text of too many tokens.

    Args:
        model: The model.
        text: The text.
        otherwise: Names it in the message where it is from no file.
        name: Its key.
        more: Tokens that are to follow it.

    Raises:
        RecipeError: As `check_task`.
    """
    if len(text.encode("utf-8", "surrogatepass")) + 2 + more > model.n_ctx_train:
        follow = f" and {more} to follow" if more else ""
        _check(model, _count(model, text) + more, where_of(text, otherwise), f"{name}{follow}")


def _check(model: Model, n_tokens: int, where: str, name: str) -> None:
    if n_tokens > model.n_ctx_train:
        raise RecipeError(
            f"{where}: {name} has {n_tokens} tokens; model {model.name!r} reads {model.n_ctx_train}"
        )


def _count(model: Model, text: str) -> int:
    return len(model.tokenize(text))
