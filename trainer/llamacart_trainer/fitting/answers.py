"""What a model answers: the texts that a prompt is distilled by."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from llamacart.passes.batching import shared_beginning
from llamacart.passes.generate import greedy
from llamacart.passes.watching import watching
from llamacart.values.steering import UNSTEERED
from llamacart_trainer.recipe.turns import Exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamacart.llama.model import Model
    from llamacart.passes.generate import IsOver
    from llamacart.passes.watching import OnRows
    from llamacart.values.steering import Steering
    from llamacart_trainer.recipe.turns import Turn
    from llamacart_trainer.recipe.writer import Writer

    OnAnswers = Callable[[int, int], None]
    """(answers that are there, answers that there will be)."""
    OnPart = Callable[[float], None]
    """(answers that those under way are worth by now)."""

QUESTIONS_AT_ONCE = 32
"""Questions that are answered together; more gain little, nothing is told meanwhile, and so much
is lost to a kill at most."""


def answer(
    model: Model,
    writer: Writer,
    conversations: Sequence[Sequence[Turn]],
    n_tokens: int,
    *,
    steering: Steering = UNSTEERED,
    n_threads: int | None = None,
    on_answers: OnAnswers = lambda _done, _total: None,
    on_part: OnPart = lambda _part: None,
) -> list[Exchange]:
    """The likeliest answer to each conversation's last turn.

    An answer ends where the model ends its turn, before a text that stops it, or after
    `n_tokens` tokens; it may be empty. Half a character at its end is left out.

    Args:
        model: The model.
        writer: Writes conversations for it.
        conversations: Turns, each ending in a user's message.
        n_tokens: Most tokens of an answer.
        steering: What acts on every row.
        n_threads: Threads for compute.
        on_answers: Called as answers come.
        on_part: Called as those under way are written.

    Raises:
        InputError: The model's template refuses the turns.
    """
    prompts = [writer.opened(turns) for turns in conversations]
    is_over = stop_reader(model, writer.stops)
    found: list[Exchange] = []
    on_answers(0, len(prompts))
    for start in range(0, len(prompts), QUESTIONS_AT_ONCE):
        part = slice(start, start + QUESTIONS_AT_ONCE)
        with watching(_share_of(prompts[part], n_tokens, on_part)):
            grown = greedy(
                model,
                prompts[part],
                n_tokens,
                steering=steering,
                is_over=is_over,
                n_threads=n_threads,
            )
        for turns, tokens in zip(conversations[part], grown, strict=True):
            text, stopped = cut(_text(model, tokens), writer.stops)
            ended = stopped or len(tokens) < n_tokens
            found.append(Exchange(turns[-1].content, text, ended))
        on_answers(len(found), len(prompts))
    return found


def _share_of(prompts: Sequence[Sequence[int]], n_tokens: int, on_part: OnPart) -> OnRows:
    """From the rows that are computed to how many of some answers are done, or worth so much."""
    shared = shared_beginning(prompts) * (len(prompts) - 1)
    expected = sum(map(len, prompts)) - shared + len(prompts) * max(1, n_tokens - 1)
    done = 0

    def count(n_rows: int) -> None:
        nonlocal done
        done += n_rows
        on_part(len(prompts) * min(1.0, done / expected))

    return count


def stop_reader(model: Model, stops: Sequence[str]) -> IsOver | None:
    """Whether tokens have come to one of some texts, with the last of them or not long before.

    Returns:
        The question to ask of the tokens of an answer; None where there is no such text.
    """
    if not stops:
        return None
    wanted = [stop.encode() for stop in stops]
    longest = max(map(len, wanted))  # a token has one byte at least, and most have several

    def is_over(tokens: Sequence[int]) -> bool:
        end = b"".join(map(model.token_bytes, tokens[-longest:]))
        return any(stop in end for stop in wanted)

    return is_over


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """A text up to the first of some stops, and whether there was one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _text(model: Model, tokens: Sequence[int]) -> str:
    # What is not final is kept back.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return decoder.decode(b"".join(map(model.token_bytes, tokens)))
