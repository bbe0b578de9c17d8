"""Asks a model messages behind a prompt, and keeps each answer as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacart_trainer.drafting.kept import KeptAnswers
from llamacart_trainer.fitting.answers import QUESTIONS_AT_ONCE, answer
from llamacart_trainer.recipe.turns import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llamacart.llama.model import Model
    from llamacart_trainer.fitting.answers import OnPart
    from llamacart_trainer.recipe.turns import Exchange
    from llamacart_trainer.recipe.writer import Writer


def ask(
    model: Model,
    writer: Writer,
    before: Sequence[Turn],
    messages: Sequence[str],
    n_tokens: int,
    path: Path,
    *,
    n_threads: int | None = None,
    on_start: Callable[[int], None] = lambda _found: None,
    on_answers: Callable[[int], None] = lambda _count: None,
    on_part: OnPart = lambda _part: None,
) -> list[Exchange]:
    """The model's answers to some messages; those that `path` holds are not given anew.

    Args:
        model: The model.
        writer: Writes conversations for it.
        before: Turns that stand before each message.
        messages: User messages, each once.
        n_tokens: Most tokens of an answer.
        path: Where answers are kept.
        n_threads: Threads for llama.cpp.
        on_start: Called with the number of answers that were found.
        on_answers: Called with the number of each batch of new ones.
        on_part: See `answer`.

    Raises:
        InputError: The file holds answers of something else, or the template refuses the turns.
    """
    facts = {
        "model": model.fingerprint.weights_hash,
        "before": writer.opened([*before, Turn("user", "?")]),
        "tokens": n_tokens,
    }
    kept = KeptAnswers(path, facts)
    left = kept.missing(messages)
    on_start(len(messages) - len(left))
    for start in range(0, len(left), QUESTIONS_AT_ONCE):
        part = left[start : start + QUESTIONS_AT_ONCE]
        conversations = [[*before, Turn("user", message)] for message in part]
        kept.add(
            answer(model, writer, conversations, n_tokens, n_threads=n_threads, on_part=on_part)
        )
        on_answers(len(part))
    return kept.of(messages)
