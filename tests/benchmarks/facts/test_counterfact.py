from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import counterfact
import pytest

from llamacart_trainer.evaluation import locality
from llamacart_trainer.evaluation import plan as plan_module
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


@pytest.fixture
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    short = {"english": ("a text", "one more"), "french": ("un texte",)}
    monkeypatch.setattr(locality, "fixed_text", short.__getitem__)
    monkeypatch.setattr(plan_module, "fixed_text", short.__getitem__)
    monkeypatch.setattr(recipe_module, "builtin_neutral", lambda **_: ("a text", "some words"))
    monkeypatch.setattr(judge, "TEXT_TOKENS", 3)


@pytest.mark.usefixtures("short_texts")
def test_the_script_trains_measures_and_prints(
    tiny_path: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write(tmp_path, {"subject": "Al", "prompt": "Al is in"}, {}, {"subject": "Ed"})
    result, kept = tmp_path / "figures.json", tmp_path / "kept"
    words = ["--data", data, "--model", tiny_path(), "--edits", 1, "--skip", 1, "--paper"]
    words += ["--set", "neurons=20", "layers=[1, 1]", "--keep", kept, "--json", result]
    monkeypatch.setattr("sys.argv", ["counterfact.py", *map(str, words)])
    counterfact.main()
    (found,) = json.loads(result.read_text())
    assert [point["label"] for point in found["points"]] == [
        "unsteered",
        "fact in the prompt",
        "all facts in the prompt",
        "counterfact",
        *counterfact.PENALTIES,
    ]
    assert [each["alpha"] for each in found["fits"]] == [1.0, 1.1, 1.1]
    assert (kept / "1" / "counterfact.gguf").stat().st_size == found["fits"][0]["bytes"]
    assert load_task(kept / "1").facts[0].subject == "Vel"
    assert "counterfact: fitted in" in capsys.readouterr().out


def test_more_edits_than_there_are_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(write(tmp_path, {}))
    monkeypatch.setattr("sys.argv", ["counterfact.py", "--data", data, "--edits", "2"])
    with pytest.raises(SystemExit):
        counterfact.main()
    assert "--edits has value 2; there are 1" in capsys.readouterr().err
