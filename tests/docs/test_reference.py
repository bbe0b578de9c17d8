"""Tables of the documentation hold every key, setting, solver and pairing, and no other."""

from __future__ import annotations

import json
import runpy
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from pydantic_core import PydanticUndefined

from llamacart_server.settings import load_settings
from llamacart_trainer.recipe.draft import DraftSettings
from llamacart_trainer.recipe.evaluation import EvaluationSettings
from llamacart_trainer.recipe.recipe import PairingName, Recipe, load_task
from llamacart_trainer.solvers import SOLVERS

SETTINGS = runpy.run_path(str(Path(__file__).with_name("write_settings.py")))


def code(cell):
    return cell.strip("`")


def shown(field):
    """A default as a recipe would write it."""
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, EvaluationSettings):
        return "all defaults"
    return "none" if field.default is None else json.dumps(field.default)


@pytest.mark.parametrize(
    ("mark", "model"),
    [
        ("recipe keys", Recipe),
        ("evaluation keys", EvaluationSettings),
        ("draft keys", DraftSettings),
    ],
)
def test_keys_of_a_recipe(doc_page, mark, model):
    rows = doc_page("recipes.md").table(mark)
    documented = {code(key): code(default) for key, default, _ in rows}
    assert documented == {name: shown(field) for name, field in model.model_fields.items()}
    assert all(meaning for *_, meaning in rows)


def test_pairings(doc_page):
    rows = doc_page("recipes.md").table("pairings")
    assert sorted(code(row[0]) for row in rows) == sorted(get_args(PairingName))


def test_solvers(doc_page):
    rows = doc_page("recipes.md").table("solvers")
    documented = {code(name): (penalty, tied) for name, _, penalty, tied in rows}
    assert documented == {
        name: ("yes" if solver.choose else "no", "yes" if solver.needs_pairs else "no")
        for name, solver in SOLVERS.items()
    }


def test_settings_of_the_server(doc_page):
    text = doc_page("serving.md").text
    assert text == SETTINGS["written"](text), "run python tests/docs/write_settings.py"
    assert "--max-tokens" in SETTINGS["table"]()


def test_recipes_in_the_text(doc_page):
    blocks = doc_page("recipes.md").blocks("toml")
    assert len(blocks) >= 2
    for _, text in blocks:
        Recipe.model_validate({"name": "any"} | tomllib.loads(text))


def test_configuration_in_the_text(doc_page, tmp_path):
    file = tmp_path / "config.toml"
    blocks = doc_page("serving.md").blocks("toml")
    assert blocks
    for _, text in blocks:
        file.write_text(text, "utf-8")
        load_settings(file)


def test_json_in_the_text(manual_page):
    for _, text in manual_page.blocks("json"):
        try:
            json.loads(text)
        except ValueError:
            for line in text.splitlines():
                json.loads(line)


def test_examples_are_recipes(doc_page):
    folders = sorted((doc_page("README.md").path.parent / "examples").iterdir())
    assert folders
    for folder in folders:
        task = load_task(folder)
        assert task.recipe.name == folder.name
        assert len(task.pairs) >= 30


def test_the_walk_shows_the_example_as_it_is(doc_page):
    page = doc_page("first-cartridge.md")
    folder = page.path.parent / "examples" / "spanish"
    recipe, change = (tomllib.loads(text) for _, text in page.blocks("toml"))
    assert recipe == tomllib.loads((folder / "recipe.toml").read_text("utf-8"))
    Recipe.model_validate(recipe | change)
    data = "".join(path.read_text("utf-8") for path in folder.glob("*.jsonl")).splitlines()
    shown_lines = [line for _, text in page.blocks("json") for line in text.splitlines()]
    assert len(shown_lines) == 3
    assert set(shown_lines) <= set(data)
