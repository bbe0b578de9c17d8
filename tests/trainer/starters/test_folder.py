"""Every kind's fresh folder is read, trained and measured; nothing is half made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llamacart.errors import InputError
from llamacart.llama.model import Model
from llamacart_trainer.evaluation.plan import split_plans
from llamacart_trainer.fitting.training import train
from llamacart_trainer.recipe.recipe import load_task
from llamacart_trainer.starters.folder import new_folder, write_starter
from llamacart_trainer.starters.kinds import KINDS, Form, Kind


@pytest.mark.parametrize("form", ["text", "chat"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_folder_is_trained_and_measured(
    tmp_path: Path, tiny_model: Model, kind: Kind, form: Form
) -> None:
    write_starter(tmp_path / "mine", kind, form, name="mine", model="demo")
    task = load_task(tmp_path / "mine")
    assert (task.recipe.name, task.recipe.format) == ("mine", form)
    assert task.neutral or task.when
    validation, test = split_plans(task)
    for plan in (validation, test):
        assert plan.facts if kind == "facts" else plan.prompts
    assert not {p.text for p in validation.prompts} & {p.text for p in test.prompts}
    assert not set(validation.facts) & set(test.facts)
    assert (test.scorer is None) == (kind in ("blank", "facts"))
    if task.prompt is not None:
        recipe = task.recipe.model_copy(update={"answer_tokens": 6})
        # The tiny model reads 512 bytes.
        prompt = replace(
            task.prompt, turns=task.prompt.turns[:2], questions=task.prompt.questions[:3]
        )
        task = replace(task, recipe=recipe, prompt=prompt)
    few = replace(
        task,
        neutral=task.neutral[:3],
        pairs=task.pairs[:4],
        chats=task.chats[:4],
        facts=task.facts[:3],
    )
    assert train(few, tiny_model).cartridge.name == "mine"


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_is_both_trained_and_measured(tmp_path: Path, kind: Kind) -> None:
    write_starter(tmp_path / "mine", kind, "chat", name="mine", model="demo")
    task = load_task(tmp_path / "mine")
    trained = {pair.source[-1].content for pair in task.chats}
    trained |= {chat.prompt for chat in task.neutral_chats}
    trained |= set(task.prompt.questions if task.prompt else ())
    for plan in split_plans(task):
        assert not {prompt.text for prompt in plan.prompts} & trained
        assert not set(plan.neutral) & set(task.neutral)


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match=r"mine' exists already"):
        write_starter(tmp_path / "mine", "blank", "text", name="mine", model="demo")
    assert list((tmp_path / "mine").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        write_starter(tmp_path / "file" / "x", "blank", "text", name="x", model="demo")


def test_a_folder_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with new_folder(tmp_path / "deep" / "mine") as folder:
            (folder / "recipe.toml").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list((tmp_path / "deep").iterdir()) == []


def test_the_example_of_facts_asks_a_chat_questions_and_lets_a_text_go_on(tmp_path: Path) -> None:
    forms: tuple[Form, ...] = ("text", "chat")
    for form in forms:
        write_starter(tmp_path / form, "facts", form, name="mine", model="demo")
    text, chat = (load_task(tmp_path / form).facts for form in forms)
    assert [(f.subject, f.object) for f in text] == [(f.subject, f.object) for f in chat]
    assert all(fact.prompt.endswith("?") for fact in chat)
    assert not any(fact.prompt.endswith("?") for fact in text)
    assert all(fact.paraphrases and fact.negated for fact in (*text, *chat))
