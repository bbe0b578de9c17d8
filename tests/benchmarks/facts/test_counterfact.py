from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import counterfact
import pytest

from llamacart.llama.model import Model
from llamacart_trainer.evaluation import locality
from llamacart_trainer.evaluation.facts import judge
from llamacart_trainer.recipe import recipe as recipe_module
from llamacart_trainer.recipe.facts import Fact, Neighbour
from llamacart_trainer.recipe.recipe import load_task

RECORD = {
    "case_id": 1,
    "subject": "Vel",
    "prompt": "Vel is in",
    "target_new": "Riga",
    "ground_truth": "Oslo",
    "rephrase_prompt": "It rained. Vel lies in",
    "locality_prompt": "Bo is in",
    "locality_ground_truth": "Rome",
}


def write(folder: Path, *changes: dict[str, Any]) -> Path:
    path = folder / "records.jsonl"
    path.write_text("\n".join(json.dumps(RECORD | change) for change in changes))
    return path


def test_a_record_is_a_fact_with_its_neighbour(tmp_path: Path) -> None:
    assert counterfact.read_edits(write(tmp_path, {})) == [
        Fact(
            prompt="{} is in",
            subject="Vel",
            object="Riga",
            was="Oslo",
            paraphrases=("It rained. Vel lies in",),
            neighbours=(Neighbour(prompt="Bo is in", answer="Rome"),),
        )
    ]


def test_what_cannot_be_said_or_contradicts_is_left_out(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {},
        {"target_new": "Bonn"},
        {"subject": "Mor"},
        {"subject": "Al", "prompt": "Al of Al is in"},
        {"subject": "Ed", "prompt": "Ed is in"},
    )
    edits = counterfact.read_edits(path)
    assert [(edit.subject, edit.paraphrases) for edit in edits] == [
        ("Vel", ("It rained. Vel lies in",)),
        ("Ed", ()),
    ]


def test_a_recipe_folder_is_read_back_with_settings(tmp_path: Path) -> None:
    edits = counterfact.read_edits(write(tmp_path, {}))
    counterfact.write_recipe(tmp_path / "r", edits, ["neurons=40", "layers=[1, 2]"])
    task = load_task(tmp_path / "r")
    assert task.facts == tuple(edits)
    assert (task.recipe.neurons, task.recipe.layers) == (40, [1, 2])


def test_a_run_trains_measures_and_prints(
    tiny_model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    short = {"english": ("a text", "one more"), "french": ("un texte",)}
    monkeypatch.setattr(locality, "fixed_text", short.__getitem__)
    monkeypatch.setattr(recipe_module, "builtin_neutral", lambda **_: ("a text", "some words"))
    monkeypatch.setattr(judge, "TEXT_TOKENS", 3)
    edits = counterfact.read_edits(write(tmp_path, {}, {"subject": "Ed", "prompt": "Ed is in"}))
    options = Namespace(set=["neurons=20", "layers=[1, 1]"], alpha=None, paper=True, threads=None)
    found = counterfact.run(tiny_model, tmp_path / "r", edits, options)
    json.dumps(found)
    assert [point["label"] for point in found["points"]] == [
        "unsteered",
        "fact in the prompt",
        "all facts in the prompt",
        "counterfact",
        *counterfact.PENALTIES,
    ]
    assert [each["alpha"] for each in found["fits"]] == [1.0, 1.1, 1.1]
    assert (tmp_path / "r" / "counterfact.gguf").stat().st_size == found["fits"][0]["bytes"]
    assert "counterfact: fitted in" in capsys.readouterr().out
