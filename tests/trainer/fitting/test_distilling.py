"""Chats and prompts from a recipe to a cartridge, on models of random weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from llamacart.errors import RecipeError
from llamacart_trainer.fitting import samples as samples_module
from llamacart_trainer.fitting.coverage import check_answers
from llamacart_trainer.fitting.job import Job
from llamacart_trainer.fitting.samples import SampleBuilder
from llamacart_trainer.fitting.training import train
from llamacart_trainer.recipe.distilled import distilled_prompt
from llamacart_trainer.recipe.recipe import Recipe, Task, load_task
from llamacart_trainer.recipe.turns import Exchange, Turn

SETTINGS = {"neurons": 8}
PROMPT = distilled_prompt("Be brief.", [], [f"Why {n}?" for n in range(4)])


def prompt_task(**settings: object) -> Task:
    recipe = Recipe(name="x", kind="prompt", prompt="Be brief.", answer_tokens=6, **settings)
    return Task(recipe, prompt=PROMPT)


@pytest.mark.parametrize("form", ["chat", "text"])
@pytest.mark.parametrize(
    "settings", [SETTINGS, {"target": "activation", "threshold": 0.05, "penalty": 1.0}]
)
def test_a_prompt_to_a_cartridge(tiny_model, form, settings) -> None:
    told: list[tuple[int, int]] = []
    task = prompt_task(format=form, **settings)
    assert task.recipe.target == settings.get("target", "residual")
    result = train(task, tiny_model, on_answers=lambda *counts: told.append(counts))
    assert told[0] == (0, 4)
    assert told[-1] == (4, 4)
    assert [answer.prompt for answer in result.answers] == list(PROMPT.questions)
    assert result.cartridge.layers
    assert result.cartridge.metadata.diagnostics["answers"] == 4
    assert "pairs" not in result.cartridge.metadata.diagnostics
    again = train(task.with_answers(result.answers), tiny_model)
    assert again.cartridge.content_hash == result.cartridge.content_hash


@pytest.mark.parametrize("pairing", [["handover", "identity"], ["align"], ["suffix"]])
def test_chats_to_a_cartridge(tiny_model, tmp_path: Path, pairing) -> None:
    folder = tmp_path
    names = json.dumps(pairing)
    (folder / "recipe.toml").write_text(
        f'name = "x"\nformat = "chat"\nthreshold = 0.05\npenalty = 1.0\npairing = {names}\n'
        'neutral = "neutral.jsonl"\n'
    )
    hi, yo = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "one two three"}
    system = {"role": "system", "content": "S"}
    pairs = [{"source": [hi, yo], "target": [system, hi, yo]}] * 2
    if "suffix" not in pairing:
        pairs += [{"prompt": "Hi", "source": "one two three", "target": "un deux trois"}]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    neutral = [{"text": "left alone"}, {"prompt": "Why?", "text": "So."}]
    (folder / "neutral.jsonl").write_text("\n".join(map(json.dumps, neutral)))
    task = load_task(folder)
    result = train(task, tiny_model)
    assert result.cartridge.layers
    assert result.cartridge.metadata.diagnostics["pairs"] == len(pairs)
    assert result.cartridge.metadata.diagnostics["neutral texts"] == 2
    groups = [sample.group for sample in SampleBuilder(task, tiny_model).build()]
    assert sorted(set(groups)) == list(range(len(pairs) + 2))


@pytest.mark.parametrize("max_memory", [2**30, 1])
def test_emphasis_changes_the_cartridge_and_nothing_else(tiny_model, max_memory) -> None:
    answers = [Exchange(question, "one two three") for question in PROMPT.questions]
    results = [
        train(
            prompt_task(emphasis=exponent, **SETTINGS).with_answers(answers),
            tiny_model,
            max_memory=max_memory,
        )
        for exponent in (0.0, 2.0)
    ]
    assert results[0].cartridge.content_hash != results[1].cartridge.content_hash
    assert results[0].n_rows == results[1].n_rows


def test_empty_answers_are_left_out_and_counted(tiny_model) -> None:
    answers = [Exchange("a?", "one"), Exchange("b?", " "), Exchange("c?", "two three")]
    result = train(prompt_task(**SETTINGS).with_answers(answers), tiny_model)
    found = result.cartridge.metadata.diagnostics
    assert (found["answers"], found["empty answers"]) == (2, 1)


def test_answers_that_were_cut_are_told_and_counted(tiny_model) -> None:
    told: list[str] = []
    result = train(prompt_task(**SETTINGS), tiny_model, on_notice=told.append)
    assert not any(answer.ended for answer in result.answers)
    assert [notice.partition(",")[0] for notice in told] == ["4 of 4 answers were cut at 6 tokens"]
    assert "raise answer_tokens" in told[0]
    assert result.cartridge.metadata.diagnostics["cut answers"] == 4


@pytest.mark.parametrize(
    ("ends", "recipe", "told"),
    [
        ((True, True), {}, None),
        ((True, None), {}, None),  # an empty answer
        ((False, True, True, True, True), {}, "1 of 5 answers was cut at 6 tokens"),
        ((False, False, True, True), {"answers": "own.jsonl"}, "2 of 4 answers were cut, and"),
    ],
)
def test_what_is_told_of_cut_answers(ends, recipe, told) -> None:
    answers = [Exchange("?", "yes" if end is not None else "", ended=bool(end)) for end in ends]
    found = check_answers(prompt_task(**recipe), answers)
    assert (found or "").startswith(told or "")
    assert (found is None) == (told is None)


def test_a_model_that_says_nothing_is_refused(tiny_model) -> None:
    task = prompt_task().with_answers([Exchange("a?", ""), Exchange("b?", "\n")])
    with pytest.raises(RecipeError, match="'x': the model answers 0 of 2 questions behind"):
        train(task, tiny_model)


def test_a_prompt_that_the_model_cannot_read_whole_is_found_first(tiny_model, monkeypatch) -> None:
    monkeypatch.setattr(samples_module, "answer", None)
    long = dataclasses.replace(PROMPT, turns=(Turn("system", "word " * 200),))
    task = dataclasses.replace(prompt_task(), prompt=long)
    with pytest.raises(RecipeError, match=r"'x': prompt with question 'Why 0\?': .* reads 512"):
        train(task, tiny_model)


def test_a_run_that_goes_on_generates_no_answer_again(tiny_model, tmp_path, monkeypatch) -> None:
    """And has the bytes of one that was not interrupted."""
    task, job = prompt_task(**SETTINGS), tmp_path / "job"
    whole = train(task, tiny_model)

    def interrupted(*_args: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(task, tiny_model, job=job, on_layer=interrupted)
    monkeypatch.setattr(samples_module, "answer", None)
    resumed = train(task, tiny_model, job=job)
    assert resumed.restored == 1
    assert resumed.cartridge.content_hash == whole.cartridge.content_hash
    assert resumed.answers == whole.answers
    (job / "answers.json").write_text("[{}]")
    with pytest.raises(Exception, match=r"answers\.json' is damaged"):
        train(task, tiny_model, job=job)


def test_answers_are_of_the_prompt_that_they_were_kept_for(tiny_model, tmp_path) -> None:
    job = tmp_path / "job"
    train(prompt_task(**SETTINGS), tiny_model, job=job)
    other = dataclasses.replace(PROMPT, turns=(Turn("system", "Be kind."),))
    with pytest.raises(Exception, match="another data set"):
        train(dataclasses.replace(prompt_task(**SETTINGS), prompt=other), tiny_model, job=job)


def test_what_an_interrupted_run_kept_is_told(tiny_model, tmp_path) -> None:
    from llamacart_trainer.fitting.job import kept

    job = Job(tmp_path / "job", {"a": 1}, tiny_model.fingerprint)
    job.save_answers([Exchange("a", "b")])
    assert kept(job.folder).startswith("the model's answers are kept in ")
