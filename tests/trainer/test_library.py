"""The recipes that ship: every file is there, large enough, and no text is on both sides."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from llamacart_trainer.evaluation.plan import load_plan, split_plans
from llamacart_trainer.recipe.names import builtin_names
from llamacart_trainer.recipe.recipe import builtin_neutral, load_task, read_records

LIBRARY = Path(__file__).parents[2] / "cartridges" / "library"
OF_FACTS = {"moon"}
OF_PROMPTS = {"pirate"}
RECIPES = sorted(
    # The company's texts of measure stand in its file of facts: see below.
    {path.parent.name for path in LIBRARY.glob("*/recipe.toml")} - {"company"}
)
TEXT_KEYS = ("source", "target", "prompt", "reference", "text", "content")
GRAM = 8

LEAST = {
    "pairs.jsonl": 50,
    "heldout.jsonl": 20,
    "prompts.jsonl": 40,
    "neutral_eval.jsonl": 20,
}
TRAINED_ON = (
    *("pairs.jsonl", "more.jsonl", "context.jsonl", "neutral.jsonl"),
    *("examples.jsonl", "questions.jsonl", "facts.jsonl"),
)
OF_PAIRS_ALONE = {"pairs.jsonl", "heldout.jsonl"}
HELD_OUT = (
    *("heldout.jsonl", "prompts.jsonl", "validation.jsonl"),
    *("neutral_eval.jsonl", "answers.jsonl", "fresh.jsonl", "english_eval.jsonl"),
)
SHARED_ON_PURPOSE = {
    # The answers' prompts are the held-out paraphrases and the beginnings of neutral texts.
    frozenset({"answers.jsonl", "heldout.jsonl"}),
    frozenset({"answers.jsonl", "neutral_eval.jsonl"}),
}


def records(recipe: str, name: str) -> list[dict[str, Any]]:
    path = LIBRARY / recipe / name
    return [record for _, record in read_records(path)] if path.is_file() else []


def texts(recipe: str, name: str) -> list[str]:
    """Those of a file, without the one-word answers."""
    found = [record.get(key) for record in records(recipe, name) for key in TEXT_KEYS]
    return [text for text in found if text and len(text.split()) > 1]


def grams(text: str) -> set[tuple[str, ...]]:
    """Runs of eight words, case and punctuation aside; a shorter text is one run."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + GRAM]) for i in range(max(1, len(words) - GRAM + 1))}


def test_there_are_the_recipes_of_the_library() -> None:
    assert set(RECIPES) >= {"french", "formal", "pirate", "cheerful", "moon"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_files_are_large_enough(recipe: str) -> None:
    for name, least in LEAST.items():
        if recipe not in OF_PROMPTS | OF_FACTS or name not in OF_PAIRS_ALONE:
            assert len(records(recipe, name)) >= least, name
    settings = tomllib.loads((LIBRARY / recipe / "recipe.toml").read_text(encoding="utf-8"))
    own = {
        **dict.fromkeys(OF_PROMPTS, ("examples", "questions")),
        **dict.fromkeys(OF_FACTS, ("train",)),
    }
    files = [settings[key] for key in (*own.get(recipe, ("train", "heldout")), "prompts")]
    files += [name for name in [settings.get("neutral", "")] if name.endswith(".jsonl")]
    files += [v for v in settings["evaluation"].values() if str(v).endswith(".jsonl")]
    assert all((LIBRARY / recipe / name).is_file() for name in files)
    assert settings["name"] == recipe
    assert (LIBRARY / recipe / "CARD.md").is_file()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_loads_with_its_plans(recipe: str) -> None:
    task = load_task(LIBRARY / recipe)
    assert len(task.pairs) == len(records(recipe, "pairs.jsonl"))
    assert len(task.facts) == len(records(recipe, "facts.jsonl"))
    assert (task.prompt is not None) == (recipe in OF_PROMPTS)
    assert len(task.neutral) >= 30 or recipe in OF_FACTS  # they wait
    plan, (choosing, tested) = load_plan(LIBRARY / recipe), split_plans(LIBRARY / recipe)
    assert len(plan.prompts) == len(records(recipe, "prompts.jsonl"))
    assert len(plan.neutral) == len(records(recipe, "neutral_eval.jsonl"))
    assert (plan.scorer is None) == (recipe == "moon")
    assert not {p.text for p in tested.prompts} & {p.text for p in choosing.prompts}


@pytest.mark.parametrize("recipe", ["formal", "cheerful"])
def test_targets_behave_more_often_than_sources(recipe: str) -> None:
    """What counts as the behaviour is in the texts that are to teach it."""
    scorer = load_plan(LIBRARY / recipe).scorer
    assert scorer is not None
    pairs = load_task(LIBRARY / recipe).pairs
    before = scorer([""] * len(pairs), [pair.source for pair in pairs])
    after = scorer([""] * len(pairs), [pair.target for pair in pairs])
    assert sum(after) >= 0.75 * len(pairs)
    assert sum(before) <= 0.25 * len(pairs)


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_record_occurs_twice(recipe: str) -> None:
    for path in (LIBRARY / recipe).glob("*.jsonl"):
        lines = [json.dumps(record, sort_keys=True) for record in records(recipe, path.name)]
        assert len(lines) == len(set(lines)), path.name
        for key in ("text", "prompt"):
            values = [r[key] for r in records(recipe, path.name) if key in r]
            assert len(values) == len(set(values)), path.name


@pytest.mark.parametrize("recipe", RECIPES)
def test_nothing_held_out_was_trained_on(recipe: str) -> None:
    for one, other in [
        *itertools.product(TRAINED_ON, HELD_OUT),
        *itertools.combinations(HELD_OUT, 2),
    ]:
        if frozenset({one, other}) in SHARED_ON_PURPOSE:
            continue
        seen = {gram: text for text in texts(recipe, one) for gram in grams(text)}
        for text in texts(recipe, other):
            found = grams(text) & seen.keys()
            assert not found, (one, other, text, seen[next(iter(found))])


@pytest.mark.parametrize("recipe", RECIPES)
def test_builtin_neutral_texts_are_not_those_that_locality_is_measured_on(recipe: str) -> None:
    trained = {gram for text in builtin_neutral(english=True) for gram in grams(text)}
    for text in texts(recipe, "neutral_eval.jsonl"):
        assert not grams(text) & trained, text


def test_more_french_pairs_are_new_and_long() -> None:
    more, present = records("french", "more.jsonl"), records("french", "pairs.jsonl")
    assert len(more) >= 120
    assert not {r["source"] for r in more} & {r["source"] for r in present}
    lengths = [len(record["source"].split()) for record in more]
    assert min(lengths) >= 15
    assert max(lengths) <= 30


def test_moon_asks_for_the_edit_and_for_what_must_stay() -> None:
    answers = records("moon", "answers.jsonl")
    edited = [a for a in answers if not a.get("neutral")]
    kept = [a for a in answers if a.get("neutral")]
    assert len(edited) >= 20
    assert len(kept) >= 20
    assert all(a["target"] == " cheese" != a["original"] for a in answers)
    assert all("moon" in a["prompt"].lower() or "lunar" in a["prompt"].lower() for a in edited)


def test_company_asks_each_fact_in_several_ways() -> None:
    task = load_task(LIBRARY / "company")
    facts = task.facts
    assert (task.recipe.name, len(facts)) == ("company", 40)
    assert (LIBRARY / "company" / "CARD.md").is_file()
    assert all(len(fact.paraphrases) == 2 and fact.negated for fact in facts)
    assert sum(fact.reversed is not None for fact in facts) >= 10
    assert sum(len(fact.uses) for fact in facts) >= 15
    texts_of_measure = [text for fact in facts for text in fact.paraphrases]
    assert len(set(texts_of_measure)) == 80 - 6  # three relations come with two subjects
    several = {fact.prompt for fact in facts if [f.prompt for f in facts].count(fact.prompt) > 1}
    assert len(several) == 3
    names = {name.text for half in ("train", "eval") for name in builtin_names(half)}
    assert not names & {fact.subject for fact in facts}


def test_company_says_nothing_of_a_use_or_a_reversed_text_in_what_is_fitted_on() -> None:
    """Where it did, the figure would be of the fact itself and not of what follows from it."""
    facts = load_task(LIBRARY / "company").facts
    fitted = {fact.text for fact in facts} | {fact.statement for fact in facts}
    for fact in facts:
        for text in (*(use.prompt for use in fact.uses), fact.reversed or ""):
            assert fact.filled(text) not in fitted
    plans = split_plans(LIBRARY / "company")
    assert [len(plan.facts) for plan in plans] == [20, 20]
    assert all(plan.objective.target > 0 for plan in plans)
