"""Which texts ask for a fact, as the model sees it."""

from __future__ import annotations

import numpy as np
import pytest

from llamacart.llama.model import Model
from llamacart_trainer.fitting.facts import phrasings as module
from llamacart_trainer.fitting.facts.phrasings import OTHER, SAME, find_phrasings, likeness
from llamacart_trainer.fitting.facts.samples import as_text
from llamacart_trainer.recipe.facts import Fact, Use
from llamacart_trainer.recipe.names import builtin_phrasings

FORMS = ("{} a", "{} b", "{} c", "{} d")


def found(monkeypatch: pytest.MonkeyPatch, facts: list[Fact], like: dict[str, list[float]]):
    """Phrasings where the model finds forms as like each fact's text as is said."""
    rows = iter([like[fact.object] for fact in facts])
    monkeypatch.setattr(module, "likeness", lambda *_args, **_how: np.array(next(rows)))
    return find_phrasings(None, facts, [FORMS] * len(facts), lambda _text, _answer: ((0,), (1,)))


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


def test_likeness_is_one_for_the_same_text_and_symmetric(tiny_model: Model):
    texts = [tuple(tiny_model.tokenize(text)) for text in ("a b", "a b c d", "a b")]
    one, same = likeness(tiny_model, texts)
    assert same == pytest.approx(1, abs=1e-4)
    assert 0 < one < same
    assert likeness(tiny_model, texts[1::-1])[0] == pytest.approx(one, abs=1e-3)


@pytest.mark.model
def test_the_real_model_knows_what_is_asked(demo_model: Model):
    """Of an invented subject too."""
    fact = Fact(prompt="{} was born in the town of", subject="Ilva Tarrow", object="Tromsø")
    forms = [form.text for form in builtin_phrasings() if form.kind == "person"]
    (own,) = find_phrasings(demo_model, [fact], [forms], as_text(demo_model.tokenize))
    assert {"Ilva Tarrow was born in the city of", "The birthplace of Ilva Tarrow is"} & {*own.same}
    assert "Ilva Tarrow plays the" not in own.same
    assert own.other
