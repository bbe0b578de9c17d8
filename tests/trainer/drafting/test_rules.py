from __future__ import annotations

from collections.abc import Sequence

import pytest

from llamacart.errors import RecipeError
from llamacart_trainer.drafting import rules
from llamacart_trainer.drafting.rules import Draft, finished, sift
from llamacart_trainer.evaluation.scorers import words
from llamacart_trainer.recipe.draft import DraftSettings

PLAIN = "The shop opens at nine in the morning."
WANTED = "Arr, the shop opens at nine bells, matey."


def tokenize(text: str) -> list[int]:
    return [hash(word) for word in text.split()]


def verdict(draft: Draft, **settings: float) -> str:
    found = sift(
        [draft],
        DraftSettings(as_wanted="Be a pirate.", **settings),  # type: ignore[arg-type]
        tokenize,
        words(["arr"], ["sorry"]),
    )
    assert len(found.kept) + len(found.dropped) == 1
    return next(iter(found.dropped), "")


@pytest.mark.parametrize(
    ("draft", "rule"),
    [
        (Draft("?", PLAIN, WANTED), ""),
        (Draft("?", PLAIN, " \n"), rules.EMPTY),
        (Draft("?", PLAIN, "Arr, so it goes on and", target_ended=False), rules.UNFINISHED),
        (Draft("?", PLAIN, "", target_ended=False), rules.EMPTY),
        (Draft("?", PLAIN, "Arr, aye!"), rules.SHORT),
        (Draft("?", PLAIN, WANTED + " " + "We sail on and on. " * 9), rules.UNEQUAL),
        (Draft("?", PLAIN, "Arr arr arr arr arr arr arr arr"), rules.REPEATED),
        (Draft("?", WANTED, WANTED.upper()), rules.ALIKE),
        (Draft("?", "Arr, it opens at nine, I think.", WANTED), rules.ALREADY),
        (Draft("?", PLAIN, "The shop opens at nine o'clock, sir."), rules.NOT_WANTED),
        (Draft("?", PLAIN, "Arr, sorry, I am only a language model."), rules.NOT_WANTED),
    ],
)
def test_each_rule_drops_what_it_names(draft: Draft, rule: str) -> None:
    assert verdict(draft) == rule


def test_limits_are_the_settings() -> None:
    short = Draft("?", "It opens at nine.", "Arr, at nine bells.")
    assert verdict(short) == ""
    assert verdict(short, least_tokens=5) == rules.SHORT
    long = Draft("?", "It opens at nine.", WANTED)
    assert verdict(long, length_ratio=1.5) == rules.UNEQUAL


def test_what_was_cut_ends_with_its_last_sentence() -> None:
    cut = Draft("?", PLAIN + " It closes at", WANTED + " Arr, an", False, False)
    (kept,) = sift([cut], DraftSettings(as_wanted="x"), tokenize).kept
    assert (kept.source, kept.target) == (PLAIN, WANTED)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One. Two", "One."),
        ('He said "no." Then', 'He said "no."'),
        ("Wait... what", "Wait..."),
        ("It costs 3.5", ""),
        ("First this.\n2. Then", "First this."),
        ("1. Boil it.\n2.", "1. Boil it."),
        ("今日は雨です。明日は", "今日は雨です。"),
        ("nothing", ""),
    ],
)
def test_finished(text: str, whole: str) -> None:
    assert finished(text) == whole


def test_an_answer_is_kept_once() -> None:
    drafts = [Draft("a", PLAIN, WANTED), Draft("b", PLAIN + " Yes.", WANTED), Draft("c", PLAIN, "")]
    found = sift(drafts, DraftSettings(as_wanted="x"), tokenize, words(["arr"]))
    assert [draft.prompt for draft in found.kept] == ["a"]
    assert {rule: len(drafts) for rule, drafts in found.dropped.items()} == {
        rules.EMPTY: 1,
        rules.TWICE: 1,
    }


def test_a_scorer_sees_only_what_other_rules_have_left() -> None:
    asked: list[Sequence[str]] = []

    def score(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        asked.append(texts)
        return [float("Arr" in text) for text in texts]

    drafts = [Draft("a", PLAIN, WANTED), Draft("b", PLAIN, "")]
    assert len(sift(drafts, DraftSettings(as_wanted="x"), tokenize, score).kept) == 1
    assert asked == [[PLAIN], [WANTED]]
    with pytest.raises(RecipeError, match="failed"):
        sift(drafts, DraftSettings(as_wanted="x"), tokenize, lambda _p, _t: 1 / 0)  # type: ignore[arg-type, return-value]
