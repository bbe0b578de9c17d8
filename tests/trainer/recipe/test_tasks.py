"""Tasks made from pairs in memory are those of a folder, and refuse what a folder may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamacart.errors import RecipeError
from llamacart_trainer.recipe.recipe import TextPair, builtin_neutral, load_task
from llamacart_trainer.recipe.tasks import make_task

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
    ],
)
def test_refusals(pairs: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make_task(pairs, name="x", **settings)
