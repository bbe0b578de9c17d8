"""Tasks made from pairs in memory are those of a folder, and refuse what a folder may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamacart.errors import RecipeError
from llamacart_trainer.recipe.questions import builtin_questions
from llamacart_trainer.recipe.recipe import TextPair, builtin_neutral, load_task
from llamacart_trainer.recipe.tasks import make_task, prompt_task
from llamacart_trainer.recipe.turns import ChatPair, Exchange, Turn

HI = Turn("user", "Hi")
PAIRS = [("the red number", "le nombre rouge"), ("the end", "la fin")]


def test_a_task_is_the_one_that_a_folder_gives(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('name = "mine"\npenalty = 2.0\nneutral = "builtin"\n')
    records = [json.dumps({"source": s, "target": t}) for s, t in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(records))
    folder = load_task(tmp_path)
    made = make_task(PAIRS, name="mine", penalty=2.0, neutral="builtin")
    assert (made.recipe, made.pairs, made.neutral) == (folder.recipe, folder.pairs, folder.neutral)
    assert made.dataset_hash == folder.dataset_hash
    assert made.neutral == builtin_neutral()


def test_pairs_and_texts_of_ones_own() -> None:
    made = make_task([TextPair("a", "b", target_tokens=3)], name="x", neutral=["stay"])
    assert made.pairs == (TextPair("a", "b", target_tokens=3),)
    assert (made.neutral, made.recipe.neutral) == (("stay",), None)


def test_some_of_ones_own_neutral_texts() -> None:
    own = ["one", Exchange("Why?", "So."), Exchange("Who?", "Me."), "four"]
    made = make_task([("Hi", "a", "b")], name="x", format="chat", neutral=own, neutral_texts=2)
    assert (made.neutral, made.neutral_chats) == (("one",), (Exchange("Who?", "Me."),))
    fewer = made.with_recipe(made.recipe.model_copy(update={"neutral_texts": 1}))
    assert (fewer.neutral, fewer.neutral_chats) == (("one",), ())


@pytest.mark.parametrize(
    ("pairs", "settings", "message"),
    [
        ([], {}, "recipe 'x' has no pairs"),
        ([("a", " ")], {}, "target of pair 0 has value ' '"),
        ([("a", "b"), (None, "b")], {}, "source of pair 1 has value None"),
        (PAIRS, {"penalty": -1}, "penalty has value -1"),
        (PAIRS, {"penalti": 1}, "penalti"),
        (PAIRS, {"pairing": ["suffix"]}, "pair 0"),
        (PAIRS, {"neutral": "prose"}, "neutral has value 'prose'"),
        (PAIRS, {"neutral": ["fine", ""]}, "neutral text 1 has value ''"),
        ([("a", "b", "c")], {}, "pair 0 has 3 parts"),
        (PAIRS, {"format": "chat"}, "pair 0 has 2 parts"),
        ([TextPair("a", "b")], {"format": "chat"}, "pair 0 is of raw texts"),
        ([ChatPair((HI,), "a", (HI,), "b")], {}, "pair 0 is of conversations"),
        ([ChatPair((), "a", (HI,), "b")], {"format": "chat"}, "pair 0: .* there is none"),
        ([("Hi", "a", " ")], {"format": "chat"}, "target of pair 0 has value ' '"),
        (
            [("Hi", "a", "b")],
            {"format": "chat", "pairing": ["suffix"]},
            "pair 0: pairing 'suffix' needs the same answer",
        ),
        (PAIRS, {"kind": "prompt", "prompt": "a"}, "prompt_task makes its task"),
    ],
)
def test_refusals(pairs: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make_task(pairs, name="x", **settings)


def test_a_task_of_chats_is_the_one_that_a_folder_gives(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(
        'name = "mine"\nformat = "chat"\nneutral = "neutral.jsonl"\n'
    )
    record = {"prompt": "Hi", "source": "a", "target": "b"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(record))
    neutral = [{"text": "stay"}, {"prompt": "Why?", "text": "So."}]
    (tmp_path / "neutral.jsonl").write_text("\n".join(map(json.dumps, neutral)))
    folder = load_task(tmp_path)
    for pair in (("Hi", "a", "b"), ChatPair((HI,), "a", (HI,), "b")):
        left_alone = ["stay", Exchange("Why?", "So.")]
        made = make_task([pair], name="mine", format="chat", neutral=left_alone)
        assert made.dataset_hash == folder.dataset_hash
        assert made.chats == folder.chats


def test_a_prompt_is_the_one_that_a_folder_gives(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(
        'name = "x"\nkind = "prompt"\nprompt = "Be brief."\nexamples = "e.jsonl"\n'
    )
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, turns)))
    folder = load_task(tmp_path)
    for examples in ([("Hi", "Yo")], [HI, Turn("assistant", "Yo")]):
        made = prompt_task("Be brief.", name="x", examples=examples)
        assert made.prompt == folder.prompt
        assert made.dataset_hash == folder.dataset_hash
    assert made.prompt is not None
    assert made.prompt.questions == builtin_questions()


def test_questions_and_answers_of_ones_own() -> None:
    task = prompt_task("Be brief.", name="x", questions=["a?", "b?", "a?"], neutral=["stay"])
    assert task.prompt is not None
    assert task.prompt.questions == ("a?", "b?")
    assert task.neutral == ("stay",)
    answers = [Exchange("a?", "Yes."), Exchange("b?", "")]
    task = prompt_task("Be brief.", name="x", answers=answers, format="chat", answer_tokens=9)
    assert task.prompt is not None
    assert task.prompt.answers == tuple(answers)
    assert (task.recipe.format, task.recipe.answer_tokens) == ("chat", 9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "prompt, prompt_file or examples is needed"),
        ({"prompt": "a", "questions": "mine"}, "questions has value 'mine'"),
        ({"prompt": "a", "questions": []}, "'x': there are no questions"),
        ({"prompt": "a", "questions": [""]}, "question 0 has value ''"),
        ({"prompt": "a", "examples": [("Hi", " ")]}, "example 0 has value ' '"),
        ({"prompt": "a", "examples": [HI]}, "'x': the examples end in a user's turn"),
        ({"prompt": "a", "answer_tokens": 0}, "answer_tokens has value 0"),
    ],
)
def test_prompts_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        prompt_task(name="x", **settings)
