"""Texts on a fact's own subject that ask for something else: the prompts of other facts.

What a fact must leave alone most of all is the rest of what is known of its subject. A prompt of
another fact is put to the subject if it suits such a name, and if the model expects something else
behind it than behind the fact's own prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacart_trainer.evaluation.facts.neighbours import likeliest_kinds, with_name
from llamacart_trainer.fitting.facts.phrasings import OTHER, asked_of, likeness

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamacart.llama.model import Model
    from llamacart_trainer.recipe.facts import Fact
    from llamacart_trainer.recipe.names import Name

PER_FACT = 3
"""Texts of a fact."""

_TRIED = 2 * PER_FACT


def find_elsewhere(
    model: Model,
    facts: Sequence[Fact],
    names: Sequence[Name],
    tokens: Callable[[str], Sequence[int]],
    *,
    n_threads: int | None = None,
) -> list[list[str]]:
    """For each fact up to `PER_FACT` texts on its subject that do not ask for it.

    Which of the prompts that suit a fact gets goes by its number, so that all of them are used.

    Args:
        model: The model, which tells what is asked.
        facts: The facts.
        names: Names of all kinds, by which a prompt's kind of subject is told.
        tokens: Token ids of a text that is asked.
        n_threads: Threads for compute.
    """
    prompts = list(dict.fromkeys(fact.prompt for fact in facts))
    if len(prompts) == 1:
        return [[] for _ in facts]
    kinds = dict(zip(prompts, likeliest_kinds(model, prompts, names, n_threads), strict=True))
    tried = []
    for number, fact in enumerate(facts):
        own = [text for other in facts if other.subject == fact.subject for text in asked_of(other)]
        suiting = [
            text
            for prompt in prompts
            if kinds[prompt] == kinds[fact.prompt]
            and not any((text := with_name(prompt, fact.subject)) in said for said in own)
        ]
        start = number * PER_FACT % max(1, len(suiting))
        tried.append([*suiting[start:], *suiting[:start]][:_TRIED])
    asked = [
        [tuple(tokens(text)) for text in (fact.text, *texts)]
        for fact, texts in zip(facts, tried, strict=True)
    ]
    return [
        [text for text, like in zip(texts, likes, strict=True) if like < OTHER][:PER_FACT]
        for texts, likes in zip(tried, likeness(model, asked, n_threads=n_threads), strict=True)
    ]
