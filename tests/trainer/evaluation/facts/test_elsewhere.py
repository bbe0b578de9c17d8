"""What else is asked of a fact's subject, by a stand-in for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from llamacart_trainer.evaluation.facts import elsewhere as module
from llamacart_trainer.evaluation.facts.elsewhere import PER_FACT, find_elsewhere
from llamacart_trainer.recipe.facts import Fact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart.llama.model import Model

PEOPLE = ("{} was born in", "{} plays the", "{} is married to", "{} died in", "{} worked as a")
TOWNS = ("{} lies in", "The mayor of {} is")


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Model:
    """Knows the kinds of the prompts above; "died" asks for what "born" asks for."""

    def kinds(_model: Any, prompts: Sequence[str], *_: Any) -> list[str]:
        return ["person" if prompt in PEOPLE else "place" for prompt in prompts]

    def like(_model: Any, asked: Sequence[Sequence[Any]], **_: Any) -> list[list[float]]:
        def place(text: Sequence[str]) -> bool:
            return bool({"born", "died"} & set(text))

        return [[float(place(own) == place(t)) for t in texts] for own, *texts in asked]

    monkeypatch.setattr(module, "likeliest_kinds", kinds)
    monkeypatch.setattr(module, "likeness", like)
    return cast("Model", None)


def find(reader: Model, *facts: Fact) -> list[list[str]]:
    return find_elsewhere(reader, facts, (), cast("Any", str.split))


def fact(prompt: str, subject: str, **more: Any) -> Fact:
    return Fact(prompt=prompt, subject=subject, object="x", **more)


def test_prompts_of_other_facts_are_put_to_a_subject(reader: Model) -> None:
    people = [fact(prompt, name) for prompt, name in zip(PEOPLE, "ABCDE", strict=True)]
    found = find(reader, *people, fact(TOWNS[0], "F"), fact(TOWNS[1], "G"))
    born, *_, towns, mayors = found
    # Not its own prompt, not what asks the same, not what suits other names.
    assert set(born) == {"A plays the", "A is married to", "A worked as a"}
    assert all(len(texts) <= PER_FACT for texts in found)
    assert (towns, mayors) == ([], [])  # both ask alike, by this reader
    assert {text[2:] for texts in found for text in texts} == {text[3:] for text in PEOPLE}


def test_what_is_asked_of_a_subject_anyway_is_left_out(reader: Model) -> None:
    own = fact(PEOPLE[0], "A"), fact(PEOPLE[1], "A", paraphrases=("A is married to",))
    found = find(reader, *own, fact(PEOPLE[2], "B"), fact(PEOPLE[4], "C"))
    assert found[0] == ["A worked as a"]


def test_one_way_to_ask_has_nothing_beside_it(reader: Model) -> None:
    assert find(reader, fact(PEOPLE[0], "A"), fact(PEOPLE[0], "B")) == [[], []]
