"""Other subjects: near ones, and ones that share a word with the subject."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart.llama.model import Model
from llamacart_trainer.fitting.facts.neighbours import (
    KINDS,
    find_kinds,
    find_neighbours,
    mixtures,
)
from llamacart_trainer.recipe.names import builtin_names

NAMES = ("Ada Stone", "Bo Hill", "Cy Lake", "Delta", "Echo Base Nine")


def test_a_mixture_keeps_a_word_and_takes_one() -> None:
    found = mixtures("Ida May Wood", ["Ada Stone", "Bo Hill", "Delta"])
    assert found == ["Ida May Stone", "Bo May Wood", "Ida May Delta"]


def test_a_subject_of_one_word_has_no_mixtures() -> None:
    assert mixtures("Velmora", NAMES) == []


@given(subject=st.text(min_size=1), names=st.lists(st.text(alphabet="ab 東", min_size=1)))
def test_a_mixture_is_never_the_subject(subject: str, names: list[str]) -> None:
    names = [name for name in names if name.split()]
    assert " ".join(subject.split()) not in mixtures(subject, names)


def test_no_subject_is_a_neighbour(tiny_path: Callable[..., Path]) -> None:
    with Model(str(tiny_path())) as model:
        subjects = ["Ada Stone", "bo", "Ida Wood", "Velmora"]
        found = find_neighbours(model, subjects, NAMES, 4)
        none = find_neighbours(model, subjects, NAMES, 0)
        alone = find_neighbours(model, subjects, ("Ada",), 4)
    assert none == alone == [(), (), (), ()]
    for others in found:
        assert not {"Ada Stone", "Bo Hill"} & set(others)
    ida, velmora = found[2], found[3]
    assert len(ida) == 4
    assert sum("Ida" in other or "Wood" in other for other in ida) == 2
    assert set(velmora) == {"Cy Lake", "Delta", "Echo Base Nine"}  # all that are left


def test_the_nearest_name_comes_first(tiny_path: Callable[..., Path]) -> None:
    names = ("zzzz qqqq", "0123 4567", "Velmorb")
    with Model(str(tiny_path())) as model:
        ((first, *_),) = find_neighbours(model, ["Yelmorb"], names, 2)
    assert first == "Velmorb"


@pytest.mark.model
def test_the_real_model_tells_kinds_of_names_apart(demo_model: Model) -> None:
    """Of names that are none of those it compares with."""
    known = builtin_names("eval")
    found = find_kinds(demo_model, [name.text for name in known], builtin_names())
    assert all(len(kinds) <= KINDS for kinds in found)
    right = [name.kind in kinds for name, kinds in zip(known, found, strict=True)]
    assert sum(right) >= 0.8 * len(right)
