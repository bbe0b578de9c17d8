from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from llamacart.llama.model import Model
from llamacart_trainer.evaluation.facts import neighbours as module
from llamacart_trainer.evaluation.facts.neighbours import (
    PER_FACT,
    find_neighbours,
    likeliest_kinds,
    with_name,
)
from llamacart_trainer.recipe.facts import Fact, Neighbour
from llamacart_trainer.recipe.names import Name, builtin_names

FITTING = {"was born in": "person", "lies in": "place", "sells": "company"}


class Reader:
    """A model that reads words, and finds rare names unlikely and unfitting ones more so."""

    def __init__(self, names: Sequence[Name]) -> None:
        self.kinds = {name.text.casefold(): name.kind for name in names}

    def tokenize(self, text: str) -> list[str]:
        return [text, ""]

    def likely(self, text: str) -> float:
        name, kind = next(
            (n, k) for n, k in self.kinds.items() if n in text.casefold() and self._whole(n, text)
        )
        wanted = next((w for phrase, w in FITTING.items() if phrase in text), kind)
        return -float(len(name)) * 10 - (0.0 if wanted == kind else 3.0)

    def _whole(self, name: str, text: str) -> bool:
        return all(n == name or name not in n or n not in text.casefold() for n in self.kinds)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Model:
    made = Reader(builtin_names("eval"))

    def score(_model: Any, sequences: Sequence[Any], **_: Any) -> Any:
        return SimpleNamespace(
            log_likelihoods=[np.array([made.likely(tokens[0])]) for tokens in sequences]
        )

    monkeypatch.setattr(module, "score_texts", score)
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


def test_a_real_reading(tiny_model: Model) -> None:
    """Sums over many texts at once are those of one at a time."""
    names = [*builtin_names("eval")]
    one = likeliest_kinds(tiny_model, ["{} is"], names)
    both = likeliest_kinds(tiny_model, ["{} is", "the town of {} has"], names)
    assert both[0] == one[0]
