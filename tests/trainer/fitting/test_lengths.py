"""Texts over the context of a model (512 tokens here, one a byte) are refused before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamacart.errors import RecipeError
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart_trainer.evaluation.contents import Answer, Prompt
from llamacart_trainer.evaluation.evaluator import Evaluator
from llamacart_trainer.evaluation.plan import EvaluationPlan
from llamacart_trainer.fitting.training import train
from llamacart_trainer.recipe.facts import Fact
from llamacart_trainer.recipe.recipe import load_task
from llamacart_trainer.recipe.records import TextPair
from llamacart_trainer.recipe.tasks import facts_task

LONG = "ab " * 200


@pytest.fixture(autouse=True)
def _no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_given: object) -> None:
        raise AssertionError("something was computed")

    monkeypatch.setattr(Context, "decode", refuse)


@pytest.mark.parametrize(
    ("pair", "neutral", "more", "message"),
    [
        ((LONG, "b"), "n", "", r"pairs.jsonl:2: source has \d+ tokens; model 'tiny' reads 512"),
        (("a", LONG), "n", "", r"pairs.jsonl:2: target has \d+ tokens"),
        (("a", "b"), LONG, "", r"neutral.jsonl:2: text has \d+ tokens"),
        (
            ("a" * 300, "b"), "n", 'pairing = ["align"]\ngenerate_source = 256',
            r"pairs.jsonl:2: source and 256 to follow has \d+ tokens",
        ),
        # No text is too long, but the beginning of one before the end of the other.
        (("a" * 480 + " b c", "a b " + 480 * "c"), "n", "", "pair 1: what its pairing makes of it"),
    ],
)  # fmt: skip
def test_training_texts(
    tiny_model: Model, tmp_path: Path, pair: tuple[str, str], neutral: str, more: str, message: str
) -> None:
    pairs = [{"source": "a", "target": "b"}, dict(zip(("source", "target"), pair, strict=True))]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    lines = [{"text": "short"}, {"text": neutral}]
    (tmp_path / "neutral.jsonl").write_text("\n".join(map(json.dumps, lines)))
    recipe = f'name = "x"\nneutral = "neutral.jsonl"\n{more}\n'
    (tmp_path / "recipe.toml").write_text(recipe)
    with pytest.raises(RecipeError, match=message):
        train(load_task(tmp_path), tiny_model)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (EvaluationPlan("x", (Prompt(LONG),)), r"prompt 0: prompt and 24 to follow has \d+ tokens"),
        (EvaluationPlan("x", (Prompt("a"), Prompt("a", LONG))), "prompt 1: reference and 24"),
        (EvaluationPlan("x", (), (Answer("a " * 240, "b" * 99, "c"),)), "answer 0: prompt and 1"),
        (
            EvaluationPlan("x", (Prompt("a"),), heldout=(TextPair("a", LONG),)),
            r"held-out pair 0: target has \d+ tokens; model 'tiny' reads 512",
        ),
    ],
)
def test_evaluation_texts(tiny_model: Model, plan: EvaluationPlan, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Evaluator(tiny_model, plan)


def test_neutral_texts_of_an_evaluation_are_cut(tiny_model: Model) -> None:
    Evaluator(tiny_model, EvaluationPlan("x", (Prompt("a"),), neutral=(LONG,)))


def test_facts(tiny_model: Model) -> None:
    facts = [Fact(prompt="{} is", subject=name, object="so") for name in ("a", "b" * 300)]
    with pytest.raises(RecipeError, match=r"fact 1: text has \d+ tokens; model 'tiny' reads 512"):
        train(facts_task(facts, name="t"), tiny_model)
