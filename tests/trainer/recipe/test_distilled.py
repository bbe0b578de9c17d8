from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamacart.errors import NotFoundError, RecipeError
from llamacart_trainer.recipe.distilled import write_answers
from llamacart_trainer.recipe.questions import builtin_questions
from llamacart_trainer.recipe.recipe import Recipe, Task, builtin_neutral, load_task
from llamacart_trainer.recipe.turns import Exchange, Turn

EXAMPLES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Arr"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "examples.jsonl").write_text("\n".join(map(json.dumps, EXAMPLES)))
    questions = [{"prompt": "Why?"}, {"prompt": "How?"}, {"prompt": "Why?"}]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (tmp_path / "prompt.txt").write_text("Speak like a pirate.\n")
    return tmp_path


def load(folder: Path, text: str) -> Task:
    (folder / "recipe.toml").write_text(f'name = "x"\nkind = "prompt"\n{text}')
    return load_task(folder)


def test_a_prompt_of_all_parts(folder: Path) -> None:
    task = load(
        folder,
        'prompt_file = "prompt.txt"\nexamples = "examples.jsonl"\nquestions = "questions.jsonl"',
    )
    assert task.prompt is not None
    assert task.prompt.questions == ("Why?", "How?")
    assert task.prompt.asked("Why?") == (
        Turn("system", "Speak like a pirate."),
        Turn("user", "Hi"),
        Turn("assistant", "Arr"),
        Turn("user", "Why?"),
    )
    assert task.pairs == task.chats == ()


def test_the_questions_of_the_trainer(folder: Path) -> None:
    task = load(folder, 'prompt = "Be brief."')
    assert task.prompt is not None
    assert task.prompt.questions == builtin_questions()
    assert task.neutral == builtin_neutral(english=True)[::3]


def test_answers_that_are_known_are_the_questions_too(folder: Path) -> None:
    answers = (Exchange("Why?", "Arr, <é>"), Exchange("How?", "A\nB", ended=False))
    write_answers(answers, folder / "answers.jsonl")
    named = load(folder, 'prompt = "Be brief."\nanswers = "answers.jsonl"')
    assert named.prompt is not None
    assert named.prompt.answers == answers
    assert named.prompt.questions == ("Why?", "How?")
    given = load(folder, 'prompt = "Be brief."').with_answers(answers)
    assert given.prompt is not None
    assert given.prompt.answers == answers
    assert given.dataset_hash == named.dataset_hash


def test_the_digest_is_of_all_that_the_fit_rests_on(folder: Path) -> None:
    def found(text: str) -> str:
        return load(folder, text).dataset_hash

    plain = found('prompt = "Be brief."')
    assert plain == found('prompt = "Be brief."')
    assert plain != found('prompt = "Be kind."')
    assert plain != found('prompt = "Be brief."\nquestions = "questions.jsonl"')
    assert plain != found('prompt = "Be brief."\nexamples = "examples.jsonl"')
    assert plain == found('prompt = "Be brief."\nneutral = "builtin-english"')
    (folder / "neutral.jsonl").write_text(json.dumps({"prompt": "a", "text": "b"}))
    assert plain != found('prompt = "Be brief."\nneutral = "neutral.jsonl"')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "prompt, prompt_file or examples is needed"),
        ('prompt = " "', "prompt has value ' '"),
        ('prompt = "a"\nprompt_file = "prompt.txt"', "prompt and prompt_file are both given"),
        ('prompt = "a"\ntrain = "mine.jsonl"', "train is given, .* where kind is 'prompt'"),
        ('prompt = "a"\npairing = ["suffix"]', "pairing is given"),
        ('prompt = "a"\ngenerate_source = 1', "generate_source is given"),
        ('prompt = "a"\nanswer_tokens = 0', "answer_tokens has value 0"),
        ('prompt = "a"\nuser_turn = "Q"', r"user_turn has value 'Q': one \{\} is needed"),
        (
            'prompt = "a"\nformat = "chat"\nuser_turn = "Q{}"',
            "user_turn is given, .* where format is 'chat'",
        ),
        ('prompt_file = "empty.txt"', r"empty\.txt: no text"),
        ('prompt = "a"\nexamples = "system.jsonl"', "a system text in the examples"),
        ('examples = "asked.jsonl"', r"end in a user's turn \('Hi'\)"),
    ],
)
def test_what_is_no_prompt(folder: Path, text: str, message: str) -> None:
    (folder / "empty.txt").write_text("\n")
    system = {"role": "system", "content": "S"}
    (folder / "system.jsonl").write_text("\n".join(map(json.dumps, [system, *EXAMPLES])))
    (folder / "asked.jsonl").write_text(json.dumps(EXAMPLES[0]))
    with pytest.raises(RecipeError, match=message):
        load(folder, text)


def test_files_that_are_missing(folder: Path) -> None:
    for key in ("prompt_file", "examples"):
        with pytest.raises(NotFoundError, match="absent"):
            load(folder, f'{key} = "absent.txt"')


@pytest.mark.parametrize(
    "text",
    [
        'name = "x"\nquestions = "questions.jsonl"',
        'name = "x"\nprompt = "a"',
        'name = "x"\nformat = "chat"\ncapture = "faithful"',
    ],
)
def test_pairs_take_no_key_of_prompts_and_chats_none_of_texts(folder: Path, text: str) -> None:
    (folder / "recipe.toml").write_text(text)
    with pytest.raises(RecipeError, match="is given, but it has no meaning where"):
        load_task(folder)


@pytest.mark.parametrize("text", ['prompt = "a"', 'prompt = "a"\nformat = "chat"'])
def test_a_recipe_that_is_dumped_whole_is_the_same_recipe(folder: Path, text: str) -> None:
    recipe = load(folder, text).recipe
    assert Recipe.model_validate(recipe.model_dump()) == recipe


def test_only_a_prompt_has_answers() -> None:
    from llamacart_trainer.recipe.tasks import make_task

    with pytest.raises(RecipeError, match="'x' distils no prompt"):
        make_task([("a", "b")], name="x").with_answers([])
