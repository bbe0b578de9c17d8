from __future__ import annotations

from pathlib import Path

import pytest

from llamacart.errors import InputError
from llamacart_trainer.distilling.wish import Given, Questions, Wish, finish_wish, write_wish
from llamacart_trainer.recipe.recipe import load_task
from llamacart_trainer.recipe.turns import Turn

TURNS = (Turn("user", "Hi"), Turn("assistant", 'Arr, "matey"\n'))
QUESTIONS = Questions(("Why?", "How\nso?"), ("When?",), ("Where?",))


def wish(**changes: object) -> Wish:
    given = {
        "name": "mine",
        "model": "demo",
        "form": "text",
        "system": "Be brief.",
        "examples": TURNS,
        "questions": QUESTIONS,
        **changes,
    }
    return Wish(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "system",
    [
        None,
        "Be brief.",
        'Say "arr"\\\x7f',
        "Two\nlines, the second with an α.",
        "long " * 99 + "end",
    ],
)
@pytest.mark.parametrize("examples", [(), TURNS])
def test_the_folder_says_what_was_wished(
    tmp_path: Path, system: str | None, examples: tuple[Turn, ...]
) -> None:
    if system is None and not examples:
        examples = TURNS[:2]
    write_wish(wish(system=system, examples=examples), tmp_path / "w")
    task = load_task(tmp_path / "w")
    assert task.prompt is not None
    before = () if system is None else (Turn("system", system),)
    assert task.prompt.turns == (*before, *examples)
    assert task.prompt.questions == QUESTIONS.train
    assert (task.recipe.kind, task.recipe.name, task.recipe.default_alpha) == ("prompt", "mine", 1)
    assert task.recipe.evaluation.validation == "validation.jsonl"


def test_an_earlier_run_of_the_same_wish_is_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    write_wish(wish(), folder)
    write_wish(wish(), folder)
    (folder / "answers.jsonl").write_text('{"prompt": "Why?", "text": "So."}\n')
    finish_wish(wish(), folder, 0.7)
    task = load_task(folder)
    assert task.recipe.default_alpha == 0.7
    assert task.prompt is not None
    assert task.prompt.answers is not None
    assert [answer.text for answer in task.prompt.answers] == ["So."]
    write_wish(wish(), folder)
    assert load_task(folder).recipe.default_alpha == 0.7


def test_another_wish_or_changes_by_hand_are_not_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    write_wish(wish(), folder)
    for other, file in (
        (wish(system="Be long."), "recipe.toml"),
        (wish(model="other.gguf"), "recipe.toml"),
        (wish(questions=Questions(("Who?",), ("When?",), ("Where?",))), "questions.jsonl"),
        (wish(examples=(*TURNS[:1], Turn("assistant", "No"))), "examples.jsonl"),
    ):
        with pytest.raises(InputError, match=rf"{file}' is of another wish"):
            write_wish(other, folder)
    with (folder / "recipe.toml").open("a") as file:
        file.write("alphas = [1.0]\n")
    before = (folder / "recipe.toml").read_text()
    with pytest.raises(InputError, match="changed by hand"):
        write_wish(wish(), folder)
    (folder / "recipe.toml").write_text("no toml")
    with pytest.raises(InputError, match="changed by hand"):
        write_wish(wish(), folder)
    assert before.endswith("alphas = [1.0]\n")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    with pytest.raises(InputError, match="exists already"):
        write_wish(wish(), tmp_path / "w")


def test_no_shipped_question_is_in_two_parts() -> None:
    parts = Questions.shipped()
    each = [*parts.train, *parts.validation, *parts.test]
    assert len(set(each)) == len(each)
    assert len(parts.train) >= 60
    assert len(parts.test) == 60


def test_of_own_questions_every_fifth_is_held_out() -> None:
    parts = Questions.own(Given([f"Why {n % 20}?" for n in range(40)], "mine.jsonl"))
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (16, 2, 2)
    assert not set(parts.train) & {*parts.validation, *parts.test}
    assert not set(parts.validation) & set(parts.test)
    least = Questions.own(Given([f"{n}" for n in range(10)], "mine.jsonl"))
    assert (len(least.train), len(least.validation), len(least.test)) == (8, 1, 1)
    with pytest.raises(InputError, match=r"mine.jsonl has 9 different messages; 10 at least"):
        Questions.own(Given([f"{n % 9}" for n in range(30)], "mine.jsonl"))
