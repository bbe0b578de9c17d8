"""The experiments on a tiny random model: everything runs, whatever it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from llamacart.cartridge import Cartridge
from llamacart.errors import NotFoundError
from llamacart.llama.model import Model
from llamacart_trainer.commands.reproduce import reproduce
from llamacart_trainer.evaluation.plan import EvaluationPlan
from llamacart_trainer.reproduction import tables
from llamacart_trainer.reproduction.prompts import (
    MOON,
    OTHERS,
    QUESTIONS,
    language_plan,
    moon_plan,
)
from llamacart_trainer.reproduction.trials import (
    FILES,
    LIMIT,
    PLANS,
    VARIANTS,
    Experiment,
    Variant,
    run_experiment,
    task_of,
    trial_count,
)
from llamacart_trainer.reproduction.verdicts import judge

PAIRS = [
    [{"prompt": f"le {b} nombre {i}", "tokens": 2}, {"prompt": f"the {a} number {i}", "tokens": 1}]
    for i, (a, b) in enumerate([("red", "rouge"), ("old", "vieux"), ("big", "grand")])
]


APP = typer.Typer()
APP.command()(reproduce)


def small(experiment: Experiment) -> EvaluationPlan:
    """A plan with two texts of each kind and four tokens a prompt."""
    plan = PLANS[experiment]()
    edge = len(MOON)
    return replace(
        plan,
        prompts=plan.prompts[:2],
        answers=plan.answers[edge - 2 : edge + 2],
        neutral=plan.neutral[-2:],
        tokens=4,
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in FILES.values():
        (tmp_path / name).write_text(json.dumps(PAIRS), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("experiment", ["language", "moon"])
def test_every_variant_is_fitted_and_measured(
    experiment: Experiment, data: Path, tiny_model: Model
) -> None:
    variants = [replace(v, threshold=0.1, impact=0.0) for v in VARIANTS[experiment]]
    kept: dict[str, Cartridge] = {}

    def keep(variant: Variant, cartridge: Cartridge) -> None:
        kept[variant.name] = cartridge

    trials = run_experiment(
        experiment,
        tiny_model,
        data,
        variants=variants,
        plan=small(experiment),
        on_cartridge=keep,
    )
    names = [trial.name for trial in trials]
    assert names[0] == "unsteered"
    assert ("ceiling" in names) == (experiment == "language")
    assert names[-len(variants) :] == [v.name for v in variants] == list(kept)
    by_name = {trial.name: trial for trial in trials}
    assert by_name["mean-replace"].weight == pytest.approx(0.0, abs=0.1)
    layers = by_name["mean-shift"].layers
    assert [layer.weight for layer in layers] == pytest.approx(
        [np.sqrt(layer.kept) for layer in layers], rel=0.05
    )
    assert by_name["ours"].rows < by_name["mean-shift"].rows
    assert all(trial.scores.nll is not None for trial in trials)
    for trial in trials[-len(variants) :]:
        assert trial.unseen is not None
        assert [f.layer for f in trial.unseen.layers] == [f.layer for f in trial.layers]
        assert trial.unseen.projection is not None
    verdicts = judge(experiment, trials)
    assert len(verdicts) >= 5
    assert trial_count(experiment) == len(trials)
    console = Console(record=True, width=200, markup=False)
    console.print(tables.figures(experiment, trials), tables.fidelity(trials))
    console.print(tables.texts(trials, ["[red]one"]), tables.verdicts(verdicts))
    text = console.export_text()
    assert "mean-replace" in text
    assert "[red]one" in text


def test_settings_of_the_paper(data: Path) -> None:
    paper = {v.name: v for group in VARIANTS.values() for v in group}
    task = task_of(data / FILES["language"], paper["paper"])
    recipe = task.recipe
    assert (recipe.threshold, recipe.penalty, recipe.impact) == (0.03, 100.0, 0.05)
    assert (recipe.solver, recipe.pairing, recipe.default_alpha) == ("ridge", ["position"], 0.8)
    assert [(p.source_tokens, p.target_tokens) for p in task.pairs] == [(1, 2)] * 3
    assert (paper["distillation"].penalty, paper["conflict"].penalty) == (1800.0, 70.0)
    assert (paper["distillation"].threshold, paper["distillation"].alpha) == (0.02, 1.1)
    assert paper["mean-replace"].penalty == LIMIT
    without = task_of(data / FILES["language"], paper["paper-pairs-only"])
    assert {(p.source_tokens, p.target_tokens) for p in without.pairs} == {(0, 0)}


def test_a_missing_data_set_is_named(tmp_path: Path, tiny_model: Model) -> None:
    with pytest.raises(NotFoundError, match="moon_cheese_ds"):
        run_experiment("moon", tiny_model, tmp_path)


def test_prompts_are_many_and_different() -> None:
    assert len({prompt.text for prompt in language_plan().prompts}) == len(QUESTIONS) >= 20
    answers = moon_plan().answers
    assert len({answer.prompt for answer in answers}) == len(MOON) + len(OTHERS)
    assert all("oon" in answer.prompt or "lunar" in answer.prompt for answer in answers[:12])


def test_command_writes_all_figures(
    data: Path,
    tiny_path: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_moon = small("moon")
    monkeypatch.setitem(PLANS, "moon", lambda: small_moon)
    out, folder = tmp_path / "figures.json", tmp_path / "cartridges"
    arguments = ["paper", "--data", str(data), "--model", str(tiny_path())]
    result = CliRunner().invoke(
        APP, [*arguments, "--only", "moon", "--json", str(out), "-o", str(folder)]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text(encoding="utf-8"))
    assert list(found["trials"]) == ["moon"]
    names = [trial["name"] for trial in found["trials"]["moon"]]
    assert names == ["unsteered", *(v.name for v in VARIANTS["moon"])]
    assert {"fidelity", "force", "kept"} <= found["trials"]["moon"][1]["layers"][0].keys()
    assert found["verdicts"]["moon"]
    assert len(list(folder.glob("moon-*.gguf"))) == len(VARIANTS["moon"])


def test_command_names_a_missing_data_set(tmp_path: Path) -> None:
    result = CliRunner().invoke(APP, ["paper", "--data", str(tmp_path)])
    assert isinstance(result.exception, NotFoundError)
    assert "france_ds.json" in str(result.exception)
