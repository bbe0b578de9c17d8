"""Which texts ask for a fact, as the model sees it."""

from __future__ import annotations

import numpy as np
import pytest

from llamacart.llama.model import Model
from llamacart.passes.watching import watching
from llamacart_trainer.fitting.facts import phrasings as module
from llamacart_trainer.fitting.facts.phrasings import OTHER, SAME, find_phrasings, likeness
from llamacart_trainer.fitting.facts.samples import as_text
from llamacart_trainer.recipe.facts import Fact, Use
from llamacart_trainer.recipe.names import Name, builtin_phrasings

FORMS = tuple(Name(f"{{}} {letter}", "thing", letter) for letter in "abcd")


def found(
    monkeypatch: pytest.MonkeyPatch,
    facts: list[Fact],
    like: dict[str, list[float]],
    forms: tuple[Name, ...] = FORMS,
):
    """Phrasings where the model finds forms as like each fact's text as is said."""
    asked = {}

    def ask(text: str, answer: str) -> tuple[tuple[str], tuple[int]]:
        return (f"{text}/{answer}",), (1,)

    def told(_model, rows, **_how):
        asked[len(asked)] = rows
        values = {
            f"{fact.filled(form.text)}/{fact.object}": value
            for fact in facts
            for form, value in zip(forms, like[fact.object], strict=True)
        }
        return [np.array([values[text] for (text,) in row[1:]]) for row in rows]

    monkeypatch.setattr(module, "likeness", told)
    ways = find_phrasings(None, facts, [forms] * len(facts), ask)
    return ways if forms is FORMS else (ways, asked)


def test_the_likest_texts_ask_the_same(monkeypatch):
    fact = Fact(prompt="{} is", subject="S", object="x")
    (own,) = found(monkeypatch, [fact], {"x": [SAME, 0.9, OTHER, OTHER - 0.01]})
    assert own.same == ("S b", "S a")
    assert own.other == ("S d",)


def test_a_text_asks_for_one_fact_of_a_subject(monkeypatch):
    one, two = (Fact(prompt=f"{{}} {n}", subject="S", object=n) for n in "xy")
    first, second = found(
        monkeypatch, [one, two], {"x": [0.9, 0.7, 0.1, 0.1], "y": [0.7, 0.8, 0.9, 0.2]}
    )
    assert (first.same, second.same) == (("S a",), ("S c", "S b"))
    assert first.other == second.other == ("S d",)  # and what asks for the other is not held


def test_another_subject_is_another_matter(monkeypatch):
    one, two = (Fact(prompt="{} is", subject=n, object=n) for n in "xy")
    first, second = found(monkeypatch, [one, two], {"x": [0.9] * 4, "y": [0.1] * 4})
    assert len(first.same) == len(second.other) == 4


def test_what_a_fact_says_or_is_measured_by_is_neither(monkeypatch):
    uses = (Use(prompt="{} d", answer="y"),)
    fact = Fact(prompt="{} a", subject="S", object="x", paraphrases=("It rained. {} b",), uses=uses)
    (own,) = found(monkeypatch, [fact], {"x": [1.0, 0.9, 0.8, 0.1]})
    assert (own.same, own.other) == (("S c",), ())


def test_only_sorts_that_come_near_are_tried_with_each_subject(monkeypatch):
    """And one text of each sort once for a prompt, whatever the subject."""
    monkeypatch.setattr(module, "SORTS", 1)
    forms = tuple(Name(f"{{}} {n}", "thing", sort) for n, sort in enumerate("xxyy"))
    one, two = (Fact(prompt="{} is", subject=n, object=n) for n in "ST")
    like = {"S": [0.5, 0.9, 0.4, 1.0], "T": [0.8, 0.2, 0.3, 1.0]}
    (first, second), asked = found(monkeypatch, [one, two], like, forms)
    assert len(asked[0]) == 1
    assert len(asked[0][0]) == 3
    assert [len(row) for row in asked[1]] == [3, 3]
    assert (first.same, second.same) == (("S 1",), ("T 0",))


def test_likeness_is_one_for_the_same_text_and_symmetric(tiny_model: Model):
    texts = [tuple(tiny_model.tokenize(text)) for text in ("a b", "a b c d", "a b")]
    ((one, same), (back,)) = likeness(tiny_model, [texts, texts[1::-1]])
    assert same == pytest.approx(1, abs=1e-4)
    assert 0 < one < same
    assert back == pytest.approx(one, abs=1e-3)


def test_a_text_that_several_ask_of_is_run_once(tiny_model: Model, monkeypatch):
    """And as like as where each row is looked at alone."""
    own = [tuple(tiny_model.tokenize(text)) for text in ("cd", "ef", "gh")]
    rows = [[text, (1, 60, 61), (1, 70, 71)] for text in own]
    rows += [[own[0], (1, 80, 81)], [own[1]]]
    seen: list[int] = []
    with watching(seen.append):
        together = likeness(tiny_model, rows)
    assert sum(seen) <= sum(map(len, own)) + 3 * 3
    alone = [likeness(tiny_model, [row])[0] for row in rows]
    monkeypatch.setattr(module, "HELD", 2)
    for some in (together, likeness(tiny_model, rows)):
        for one, other in zip(some, alone, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.model
def test_the_real_model_knows_what_is_asked(demo_model: Model):
    """Of an invented subject too."""
    fact = Fact(prompt="{} was born in the town of", subject="Ilva Tarrow", object="Tromsø")
    forms = tuple(form for form in builtin_phrasings() if form.kind == "person")
    (own,) = find_phrasings(demo_model, [fact], [forms], as_text(demo_model.tokenize))
    assert {"Ilva Tarrow was born in the city of", "The birthplace of Ilva Tarrow is"} & {*own.same}
    assert "Ilva Tarrow plays the" not in own.same
    assert own.other
