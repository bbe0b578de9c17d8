"""A slip in a word is told with the word that was meant, wherever a recipe or its data has one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamacart.errors import LlamacartError, RecipeError
from llamacart_trainer.evaluation.baselines import fit_baselines
from llamacart_trainer.recipe.names import read_names
from llamacart_trainer.recipe.questions import questions_named
from llamacart_trainer.recipe.recipe import load_task, read_recipe
from llamacart_trainer.recipe.tasks import make_task, prompt_task
from llamacart_trainer.recipe.turns import read_chat_pairs, read_turns
from llamacart_trainer.solvers import find_solver


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ('format = "chta"', "chat"),
        ('kind = "promt"', "prompt"),
        ('target = "residuel"', "residual"),
        ('storage = "q8-0"', "q8_0"),
        ('capture = "faithfull"', "faithful"),
        ('solver = "ridge_identity"', "ridge-identity"),
        ('prior = "identiti"', "identity"),
        ('pairing = ["handover", "algin"]', "align"),
        ('penalty = "autom"', "auto"),
        ('neutral_weight = "aut"', "auto"),
    ],
)
def test_a_word_of_a_recipe(tmp_path: Path, line: str, meant: str) -> None:
    (tmp_path / "recipe.toml").write_text(f'name = "x"\n{line}\n')
    with pytest.raises(RecipeError, match=rf"recipe.toml.*; did you mean '{meant}'\?$"):
        read_recipe(tmp_path / "recipe.toml")


@pytest.mark.parametrize("line", ['format = "xml"', "storage = 8", 'penalty = "three"'])
def test_nothing_is_meant_by_what_is_near_nothing(tmp_path: Path, line: str) -> None:
    (tmp_path / "recipe.toml").write_text(f'name = "x"\n{line}\n')
    with pytest.raises(RecipeError, match="has value") as refused:
        read_recipe(tmp_path / "recipe.toml")
    assert "did you mean" not in refused.value.message


def written(folder: Path, record: object) -> Path:
    (folder / "lines.jsonl").write_text(json.dumps(record) + "\n")
    return folder / "lines.jsonl"


def test_a_word_of_a_line(tmp_path: Path) -> None:
    turn = {"role": "assitant", "content": "Arr"}
    with pytest.raises(RecipeError, match=r":1: 'role' .*; did you mean 'assistant'\?$"):
        read_turns(written(tmp_path, turn))
    user = {"role": "user", "content": "Hi"}
    pair = {"source": [user, turn], "target": [user, turn]}
    with pytest.raises(RecipeError, match=r"turn 1 of 'source': .*; did you mean 'assistant'\?$"):
        read_chat_pairs(written(tmp_path, pair))
    theirs = {"conversations": [{"from": "humann", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}
    with pytest.raises(RecipeError, match=r"turn 0 of 'conv.*; did you mean 'human'\?$"):
        read_chat_pairs(written(tmp_path, theirs))
    with pytest.raises(RecipeError, match=r":1: 'kind' .*; did you mean 'place'\?$"):
        read_names(written(tmp_path, {"name": "Riga", "kind": "plaice"}))


def test_a_word_that_stands_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(LlamacartError, match=r"buildin.*; did you mean 'builtin'\?$"):
        questions_named("buildin", tmp_path)
    with pytest.raises(LlamacartError, match=r"own.jsonl'? does not exist$"):
        questions_named("own.jsonl", tmp_path)
    (tmp_path / "recipe.toml").write_text('name = "x"\nneutral = "builtin-englsh"\n')
    with pytest.raises(LlamacartError, match=r"; did you mean 'builtin-english'\?$"):
        load_task(tmp_path)


def test_a_word_in_python() -> None:
    with pytest.raises(RecipeError, match=r"; did you mean 'mean-shift'\?$"):
        find_solver("mean_shift")
    task = make_task([("a b", "c d")], name="x")
    with pytest.raises(RecipeError, match=r"; did you mean 'control-vector'\?$"):
        fit_baselines(task, None, ["control_vector"])  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"; did you mean 'builtin'\?$"):
        make_task([("a b", "c d")], name="x", neutral="built-in")
    with pytest.raises(RecipeError, match=r"; did you mean 'builtin'\?$"):
        prompt_task("Be brief.", name="x", questions="buildin")
