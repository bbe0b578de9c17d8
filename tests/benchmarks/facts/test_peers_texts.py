from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import peers_texts as texts
import pytest

from llamacart.llama.model import Model
from llamacart_trainer.recipe.facts import Fact

FACT = Fact(prompt="The town of {} is in", subject="Vel Mör", object="Riga")


@pytest.fixture
def model(tiny_path: Callable[..., Path]) -> Iterator[Model]:
    with Model(str(tiny_path())) as model:
        yield model


@pytest.mark.parametrize("before", ["", "It rained. "])
def test_a_statement_knows_its_subject_and_its_object(model: Model, before: str) -> None:
    said = texts.statement(model, FACT, before)
    text = before + "The town of Vel Mör is in Riga"
    assert list(said.tokens) == model.tokenize(text)
    assert model.detokenize(said.tokens[said.start :]).endswith("Riga")
    assert model.detokenize(said.tokens[: said.subject_end + 1]).endswith("Mör")


def test_an_essence_ends_without_an_object(model: Model) -> None:
    said = texts.essence(model, FACT)
    assert said.start == len(said.tokens) > said.subject_end + 1


def test_a_beginning_that_is_none_is_an_error(model: Model) -> None:
    with pytest.raises(ValueError, match="is not how 'a' begins"):
        texts.last_token_of(model, "a", "a longer text than that")


def test_sentences_and_other_texts_ship() -> None:
    before = texts.sentences(4)
    assert len(set(before)) == 4
    assert all(text.endswith(". ") for text in before)
    others = texts.other_texts()
    assert len(others) > 500
    assert not any("{}" in text for text in others[-100:])
