"""From a recipe folder to the plans: test and validation share no prompt and no answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamacart.errors import NotFoundError, RecipeError
from llamacart_trainer.evaluation.contents import Answer
from llamacart_trainer.evaluation.plan import fixed_text, load_plan, split_plans
from llamacart_trainer.recipe.evaluation import EvaluationSettings

RECORDS: dict[str, list[dict[str, object]]] = {
    "pairs.jsonl": [{"source": "the cat sits", "target": "le chat"}],
    "heldout.jsonl": [
        {"source": f"{w} little birds sat on a long wall", "target": "des oiseaux"}
        for w in ("one", "two", "three")
    ],
    "prompts.jsonl": [{"prompt": "one little birds", "reference": "un"}, {"prompt": "it"}],
    "answers.jsonl": [
        {"prompt": f"p{i}", "target": " t", "original": " o", "neutral": i > 3} for i in range(7)
    ],
    "neutral.jsonl": [{"text": "neutral text"}],
    "other.jsonl": [{"prompt": "chosen for this"}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe.toml").write_text(
        'name = "mine"\nheldout = "heldout.jsonl"\nprompts = "prompts.jsonl"\n'
    )
    for name, records in RECORDS.items():
        (tmp_path / name).write_text("\n".join(map(json.dumps, records)) + "\n")
    return tmp_path


def test_everything_is_read(folder: Path) -> None:
    settings = EvaluationSettings(answers="answers.jsonl", neutral="neutral.jsonl", tokens=5)
    plan = load_plan(folder, settings)
    assert [(p.text, p.reference) for p in plan.prompts] == [
        ("one little birds", "un"),
        ("it", None),
    ]
    assert plan.answers[0] == Answer("p0", " t", " o")
    assert [a.neutral for a in plan.answers] == [False] * 4 + [True] * 3
    assert plan.neutral == ("neutral text",)
    assert len(plan.heldout) == 3
    assert plan.tokens == 5
    assert "likelier" in plan.behaviour
    few = plan.first(1)
    assert (len(few.prompts), [a.prompt for a in few.answers]) == (1, ["p0", "p4"])


def test_without_a_table_fluency_and_locality_alone(folder: Path) -> None:
    plan = load_plan(folder)
    assert plan.scorer is None
    assert plan.behaviour == "not measured"
    assert plan.neutral == fixed_text("english")


def test_fixed_texts_are_of_their_language() -> None:
    import py3langid

    for name, code in (("english", "en"), ("french", "fr")):
        lines = fixed_text(name)
        assert len(lines) == 10
        assert all(py3langid.classify(line)[0] == code for line in lines)


@pytest.mark.parametrize(
    ("settings", "text", "score", "behaviour"),
    [
        ({"language": "fr"}, "Le chat dort sur la table.", 1.0, "language 'fr'"),
        ({"target_words": ["aye"]}, "Aye!", 1.0, "with one of: aye"),
        ({"forbidden_words": ["aye"]}, "Aye!", 0.0, "without: aye"),
        ({"scorer": "own.py:f"}, "anything", 0.25, "own.py:f"),
    ],
)
def test_each_behaviour(
    folder: Path, settings: dict[str, object], text: str, score: float, behaviour: str
) -> None:
    (folder / "own.py").write_text("def f(prompts, texts):\n    return [0.25 for _ in texts]\n")
    plan = load_plan(folder, EvaluationSettings.model_validate(settings))
    assert plan.scorer
    assert list(plan.scorer([""], [text])) == [score]
    assert behaviour in plan.behaviour


def test_validation_shares_nothing_with_the_test(folder: Path) -> None:
    settings = EvaluationSettings(answers="answers.jsonl")
    validation, test = split_plans(folder, settings)
    assert [p.text for p in validation.prompts] == ["two little birds", "three little birds"]
    assert not {p.text for p in validation.prompts} & {p.text for p in test.prompts}
    assert set(validation.answers).isdisjoint(test.answers)
    assert sorted(a.prompt for a in (*validation.answers, *test.answers)) == [
        f"p{i}" for i in range(7)
    ]
    assert {a.neutral for a in validation.answers} == {a.neutral for a in test.answers}
    chosen, _ = split_plans(folder, EvaluationSettings(validation="other.jsonl"))
    assert [p.text for p in chosen.prompts] == ["chosen for this"]


def test_beginnings_in_a_script_without_spaces(folder: Path) -> None:
    pair = {"source": "爷爷每天早上在公园里打太极拳。", "target": "每天早上。"}
    (folder / "heldout.jsonl").write_text(json.dumps(pair), encoding="utf-8")
    validation, _ = split_plans(folder)
    assert [p.text for p in validation.prompts] == ["爷爷每天早"]


def test_refusals(folder: Path) -> None:
    def broken(name: str, *records: dict[str, object]) -> None:
        (folder / name).write_text("\n".join(map(json.dumps, records)))

    with pytest.raises(NotFoundError):
        load_plan(folder, EvaluationSettings(neutral="absent.jsonl"))
    answers = EvaluationSettings(answers="answers.jsonl")
    for record, message in (
        ({"prompt": "p", "target": "t"}, "found the keys 'prompt', 'target'; .*original"),
        ({"prompt": "p", "target": "t", "original": "o", "neutral": 1}, "'neutral' has value 1"),
        ({"prompt": "p", "target": "t", "original": "o", "neutral": True}, "no answers"),
    ):
        broken("answers.jsonl", record)
        with pytest.raises(RecipeError, match=message):
            load_plan(folder, answers)
    broken("neutral.jsonl")
    with pytest.raises(RecipeError, match="no texts"):
        load_plan(folder, EvaluationSettings(neutral="neutral.jsonl"))
    broken("prompts.jsonl")
    with pytest.raises(RecipeError, match="neither prompts nor answers"):
        load_plan(folder)
    broken("prompts.jsonl", {"prompt": "it", "reference": 3})
    with pytest.raises(RecipeError, match="'reference' has value 3"):
        load_plan(folder)


def lines(path: Path, *records: dict[str, object]) -> None:
    path.write_text("\n".join(map(json.dumps, records)) + "\n")


def test_without_a_validation_file_every_second_prompt_validates(folder: Path) -> None:
    (folder / "recipe.toml").write_text('name = "mine"\nprompts = "prompts.jsonl"\n')
    # One prompt in three spellings goes one way.
    texts = ("a b", "c", "A  b", "d", "e", "a b ")
    lines(folder / "prompts.jsonl", *({"prompt": text} for text in texts))
    settings = EvaluationSettings(neutral="neutral.jsonl")
    validation, test = split_plans(folder, settings)
    assert [p.text for p in validation.prompts] == ["a b", "A  b", "d", "a b "]
    assert [p.text for p in test.prompts] == ["c", "e"]
    assert split_plans(folder, settings)[0] == validation
    # One neutral text alone serves both; of more, each serves one.
    assert validation.neutral == test.neutral == ("neutral text",)
    lines(folder / "neutral.jsonl", *({"text": f"text {i}"} for i in range(5)))
    validation, test = split_plans(folder, settings)
    assert (validation.neutral, test.neutral) == (
        ("text 0", "text 2", "text 4"), ("text 1", "text 3"),
    )  # fmt: skip


def test_a_prompt_of_the_test_does_not_validate_in_another_spelling(folder: Path) -> None:
    lines(folder / "other.jsonl", {"prompt": "ONE  little birds "}, {"prompt": "new"})
    validation, test = split_plans(folder, EvaluationSettings(validation="other.jsonl"))
    assert [p.text for p in validation.prompts] == ["new"]
    assert [p.text for p in test.prompts] == ["one little birds", "it"]


def test_an_objective_demands_what_its_plan_measures(folder: Path) -> None:
    plan = load_plan(folder)
    assert (plan.objective.target, plan.objective.distinct) == (0.0, 0.6)
    short = load_plan(folder, EvaluationSettings(tokens=3, language="fr"))
    assert (short.objective.target, short.objective.distinct, short.objective.written) == (
        0.95, 0.0, 0.0,
    )  # fmt: skip
    (folder / "recipe.toml").write_text('name = "mine"\n')
    answers = load_plan(folder, EvaluationSettings(answers="answers.jsonl"))
    assert (answers.objective.target, answers.objective.written) == (0.95, 0.0)


def test_nothing_to_validate_on(folder: Path) -> None:
    (folder / "recipe.toml").write_text('name = "mine"\nprompts = "prompts.jsonl"\n')
    lines(folder / "prompts.jsonl", {"prompt": "one alone"})
    with pytest.raises(RecipeError, match="nothing to validate on"):
        split_plans(folder)
    lines(folder / "prompts.jsonl", {"prompt": "one"}, {"prompt": "two"})
    assert [len(plan.prompts) for plan in split_plans(folder)] == [1, 1]
    lines(folder / "answers.jsonl", {"prompt": "p", "target": " t", "original": " o"})
    with pytest.raises(RecipeError, match="nothing to validate on"):
        split_plans(folder, EvaluationSettings(answers="answers.jsonl"))


def test_facts_are_a_plan_of_their_own_and_are_split(folder: Path) -> None:
    facts = [{"prompt": "{} is in", "subject": f"s{i}", "object": "o"} for i in range(5)]
    (folder / "facts.jsonl").write_text("\n".join(map(json.dumps, facts)))
    (folder / "recipe.toml").write_text('name = "mine"\n')
    settings = EvaluationSettings(facts="facts.jsonl")
    plan = load_plan(folder, settings)
    assert len(plan.facts) == plan.measured.facts == 5
    assert "neighbours of facts" in plan.behaviour
    assert plan.objective.target == 0.95
    assert len(plan.first(2).facts) == 2
    assert plan.beside == ("fact in the prompt", "all facts in the prompt")
    validation, test = split_plans(folder, settings)
    assert [fact.subject for fact in validation.facts] == ["s0", "s2", "s4"]
    assert [fact.subject for fact in test.facts] == ["s1", "s3"]
    (folder / "facts.jsonl").write_text(json.dumps(facts[0]))
    with pytest.raises(RecipeError, match="nothing to validate on"):
        split_plans(folder, settings)
    (folder / "facts.jsonl").write_text(json.dumps({**facts[0], "prompt": "x"}))
    with pytest.raises(RecipeError, match=r"facts.jsonl:1: prompt has value 'x': exactly one"):
        load_plan(folder, settings)
    with pytest.raises(RecipeError, match="neither prompts nor answers nor facts"):
        load_plan(folder)
