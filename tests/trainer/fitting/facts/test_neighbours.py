"""Other subjects: near ones, and ones that share a word with the subject."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from llamacart.llama.model import Model
from llamacart_trainer.fitting.facts.neighbours import find_neighbours, mixtures

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
