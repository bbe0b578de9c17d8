from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from llamacart.llama.model import Model
from llamacart.passes.scoring import log_likelihoods
from llamacart_trainer.evaluation.facts import neighbours as module
from llamacart_trainer.evaluation.facts.neighbours import (
    PER_FACT,
    find_neighbours,
    gains_of_kinds,
    likeliest_kinds,
    with_name,
)
from llamacart_trainer.recipe.facts import Fact, Neighbour
from llamacart_trainer.recipe.names import NAME_KINDS, Name, builtin_names

FITTING = {"was born in": "person", "lies in": "place", "sells": "company"}


class Reader:
    """A model of words that finds names unlikely, the longer the more, and wrong kinds too."""

    def __init__(self, names: Sequence[Name]) -> None:
        self.kinds = {name.text.casefold(): name.kind for name in names}
        self.words = {word for name in self.kinds for word in name.split()}

    def tokenize(self, text: str) -> list[str]:
        return ["<s>", *text.split()]

    def likely(self, tokens: Sequence[str]) -> list[float]:
        """Of each token but the first."""
        text = " ".join(tokens[1:])
        name = max((n for n in self.kinds if n in text.casefold()), key=len)
        wanted = next((w for said, w in FITTING.items() if said in text), self.kinds[name])
        scores = [-10.0 * (word.casefold() in self.words) for word in tokens[1:]]
        scores[-1] -= 3.0 * (wanted != self.kinds[name])
        return scores


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Model:
    made = Reader(builtin_names("eval"))

    def score(_model: Any, prompts: Sequence[Any], answers: Sequence[Any], **_: Any) -> Any:
        return [
            np.array(made.likely([*before, *after])[len(before) - 1 :])
            for before, after in zip(prompts, answers, strict=True)
        ]

    monkeypatch.setattr(module, "log_likelihoods", score)
    return cast(Model, made)


def test_the_kind_is_told_by_what_the_prompt_says_and_not_by_how_rare_a_name_is(
    reader: Model,
) -> None:
    prompts = ["{} lies in", "{} was born in", "Everybody knows that {} sells"]
    assert likeliest_kinds(reader, prompts, builtin_names("eval")) == ["place", "person", "company"]
    assert likeliest_kinds(reader, [], builtin_names("eval")) == []


def test_each_fact_gets_others_and_those_that_have_some_none(reader: Model) -> None:
    names = builtin_names("eval")
    own = Neighbour(prompt="Rome lies in", answer="Italy")
    facts = [
        Fact(prompt="{} lies in", subject="Eastmere", object="Peru"),
        Fact(prompt="{} lies in", subject="Nova  Halden", object="Chile"),
        Fact(prompt="{} lies in", subject="Rieti", object="Spain", neighbours=(own,)),
    ]
    first, second, third = find_neighbours(reader, facts, names)
    places = [with_name("{} lies in", name.text) for name in names if name.kind == "place"]
    assert [n.prompt for n in first] == places[:PER_FACT]
    assert [n.prompt for n in second] == places[PER_FACT : 2 * PER_FACT]
    assert all(n.answer is None for n in (*first, *second))
    assert third == []


def test_a_name_that_is_the_subject_of_a_fact_is_nobodys_neighbour(reader: Model) -> None:
    names = builtin_names("eval")
    place = next(name.text for name in names if name.kind == "place")
    facts = [Fact(prompt="{} lies in", subject=place, object="Peru")]
    assert place not in "".join(n.prompt for n in find_neighbours(reader, facts, names)[0])


def test_all_names_of_a_kind_come_in_turn(reader: Model) -> None:
    names = builtin_names("eval")
    facts = [Fact(prompt="{} lies in", subject=f"A{n}", object="Peru") for n in range(7)]
    found = {n.prompt for near in find_neighbours(reader, facts, names) for n in near}
    assert len(found) == 20


def test_a_name_begins_a_text_with_a_capital() -> None:
    assert with_name("{} lies in", "the Sahara") == "The Sahara lies in"
    assert with_name("In {}, people", "the Sahara") == "In the Sahara, people"


def test_a_gain_is_what_the_prompt_adds_to_the_name(tiny_model: Model) -> None:
    """By the definition: log P(text) - log P(name), a mean over the names of a kind."""
    names, prompts = builtin_names("eval"), ["{} is", "the town of {} has"]

    def total(text: str) -> float:
        tokens = tiny_model.tokenize(text)
        return float(log_likelihoods(tiny_model, [tokens[:1]], [tokens[1:]])[0].sum())

    few = [n for kind in NAME_KINDS for n in [n for n in names if n.kind == kind][:2]]
    expected = [
        [
            np.mean(
                [
                    total(with_name(prompt, name.text)) - total(with_name("{}", name.text))
                    for name in few
                    if name.kind == kind
                ]
            )
            for kind in NAME_KINDS
        ]
        for prompt in prompts
    ]
    np.testing.assert_allclose(gains_of_kinds(tiny_model, prompts, few), expected, atol=0.05)
