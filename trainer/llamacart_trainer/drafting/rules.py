"""Which drafts become pairs: rules that drop what would teach nothing, or something else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llamacart_trainer.evaluation import scorers
from llamacart_trainer.evaluation.fluency import LEAST_TOKENS, distinct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from llamacart_trainer.evaluation.scorers import Scorer
    from llamacart_trainer.recipe.draft import DraftSettings

    Tokenize = Callable[[str], Sequence[int]]

EMPTY = "empty"
UNFINISHED = "no finished sentence"
SHORT = "too short"
UNEQUAL = "lengths too different"
REPEATED = "repeats itself"
ALIKE = "both answers alike"
TWICE = "the answer of another message"
ALREADY = "as wanted without the prompt"
NOT_WANTED = "not as wanted"

SCORED = 0.5
"""Least score of what is as wanted; the rules' own are 0 or 1, a user's scorer may give others."""

_SENTENCE = re.compile(r"(?<![.!?…])(?:[.!?…]+[\"'”’»)\]*]*(?=\s|$)|[。！？।؟]+[”’」』]*)")
_NUMBERED = re.compile(r"(?:^|\n)\s*\d{1,3}$")


@dataclass(frozen=True)
class Draft:
    """What the model wrote to one message.

    Attributes:
        prompt: The message.
        source: The answer as it is.
        target: The answer as wanted.
        source_ended: Whether the model ended it; else it was cut.
        target_ended: The same of the other.
    """

    prompt: str
    source: str
    target: str
    source_ended: bool = True
    target_ended: bool = True


@dataclass(frozen=True)
class Sifted:
    """What came through, and what did not.

    Attributes:
        kept: Drafts whose answers are whole.
        dropped: Drafts that each rule has dropped, in the rules' order; none without one.
    """

    kept: tuple[Draft, ...]
    dropped: dict[str, tuple[Draft, ...]] = field(default_factory=dict)


def sift(
    drafts: Iterable[Draft],
    settings: DraftSettings,
    tokenize: Tokenize,
    scorer: Scorer | None = None,
) -> Sifted:
    """Put drafts to the rules.

    Args:
        drafts: In any order.
        settings: Of the rules.
        tokenize: Lengths and repetition are counted in tokens: not all scripts part their words.
        scorer: What is wanted; None for no rule about it.

    Raises:
        RecipeError: A user's scorer fails.
    """
    whole = [_whole(draft) for draft in drafts]
    verdicts = [_form(draft, settings, tokenize) for draft in whole]
    if scorer is not None:
        verdicts = _behaviour(whole, verdicts, scorer)
    verdicts = _once(whole, verdicts)
    dropped: dict[str, tuple[Draft, ...]] = {}
    order = (EMPTY, UNFINISHED, SHORT, UNEQUAL, REPEATED, ALIKE, ALREADY, NOT_WANTED, TWICE)
    for rule in order:
        found = tuple(d for d, verdict in zip(whole, verdicts, strict=True) if verdict == rule)
        if found:
            dropped[rule] = found
    kept = tuple(d for d, verdict in zip(whole, verdicts, strict=True) if not verdict)
    return Sifted(kept, dropped)


def finished(text: str) -> str:
    """A text up to the end of its last finished sentence; empty where there is none."""
    ends = [
        match.end()
        for match in _SENTENCE.finditer(text)
        if not _NUMBERED.search(text[: match.start()])  # `2.` begins a point of a list
    ]
    return text[: ends[-1]].rstrip() if ends else ""


def _whole(draft: Draft) -> Draft:
    """A draft whose answers end where a sentence does."""
    source, target = draft.source.strip(), draft.target.strip()
    return replace(
        draft,
        source=source if draft.source_ended else finished(source),
        target=target if draft.target_ended else finished(target),
        source_ended=draft.source_ended or not source,
        target_ended=draft.target_ended or not target,
    )


def _form(draft: Draft, settings: DraftSettings, tokenize: Tokenize) -> str:
    """The rule that a draft breaks by its form; empty where it breaks none."""
    for text, ended in ((draft.source, draft.source_ended), (draft.target, draft.target_ended)):
        if not text:
            return EMPTY if ended else UNFINISHED
    source, target = tokenize(draft.source), tokenize(draft.target)
    if min(len(source), len(target)) < max(LEAST_TOKENS, settings.least_tokens):
        return SHORT
    if max(len(source), len(target)) > settings.length_ratio * min(len(source), len(target)):
        return UNEQUAL
    if min(distinct(source), distinct(target)) < settings.distinct:
        return REPEATED
    return ALIKE if draft.source.casefold() == draft.target.casefold() else ""


def _behaviour(whole: Sequence[Draft], verdicts: Sequence[str], scorer: Scorer) -> list[str]:
    """Verdicts with those on what is wanted; what has one already is not scored."""
    left = [n for n, verdict in enumerate(verdicts) if not verdict]
    prompts = [whole[n].prompt for n in left]
    if not left:
        return list(verdicts)
    before = scorers.run(scorer, prompts, [whole[n].source for n in left])
    after = scorers.run(scorer, prompts, [whole[n].target for n in left])
    found = list(verdicts)
    for n, source, target in zip(left, before, after, strict=True):
        if target < SCORED:
            found[n] = NOT_WANTED
        elif source >= SCORED:
            found[n] = ALREADY
    return found


def _once(whole: Sequence[Draft], verdicts: Sequence[str]) -> list[str]:
    """Verdicts with those on answers that an earlier message has too."""
    seen: set[str] = set()
    found = list(verdicts)
    for n, draft in enumerate(whole):
        if not found[n]:
            found[n] = TWICE if draft.target.casefold() in seen else ""
            seen.add(draft.target.casefold())
    return found
