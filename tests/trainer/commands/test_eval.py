"""`llamacart eval` and `llamacart tune` on a tiny model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from llamacart.errors import LlamacartError
from llamacart.file.reader import read_cartridge
from llamacart_trainer.commands import eval as eval_cli
from llamacart_trainer.commands import progress
from llamacart_trainer.commands import train as cli
from llamacart_trainer.commands import tune as tune_cli
from llamacart_trainer.evaluation import locality, plan
from llamacart_trainer.evaluation.results import Evaluation, Measured
from llamacart_trainer.recipe.questions import builtin_questions


@pytest.fixture(autouse=True)
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model reads bytes: the packaged texts would be 1 600 rows a point."""
    for module in (locality, plan):
        monkeypatch.setattr(module, "fixed_text", lambda _language: ("a text", "one more"))


@pytest.fixture(autouse=True)
def every_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)


def build_app() -> typer.Typer:
    """The trainer's commands, whether or not the installed package knows of them already."""
    app = typer.Typer()
    app.command("train")(cli.train)
    app.command("eval")(eval_cli.evaluate_cartridges)
    app.command("tune")(tune_cli.tune)
    return app


def assert_all_points_are_told(out: str) -> None:
    """The last line of progress says that all points are there, and counts no more."""
    *_, last = [line for line in out.splitlines() if line.startswith("measure")]
    found = re.search(r": point (\d+) of (\d+), 100 %", last)
    assert found is not None, last
    assert found[1] == found[2]
    assert re.search(r"^measure \(.* at α = .*, \d+ tokens\): point \d+ of", out, re.MULTILINE)


def run(*args: object) -> None:
    build_app()([str(a) for a in args], standalone_mode=False)


@pytest.fixture
def recipe(recipe: Path) -> Path:
    with (recipe / "recipe.toml").open("a") as file:
        file.write('heldout = "pairs.jsonl"\nprompts = "prompts.jsonl"\n')
    prompts = [{"prompt": f"item {i}", "reference": f"objet {i}"} for i in range(3)]
    (recipe / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    return recipe


def test_eval_writes_json_and_html_and_prints(
    tiny_path: Callable[..., Path],
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    model = tiny_path()
    run("train", recipe, "--model", model, "-o", tmp_path / "mine.gguf")
    run(
        "eval", tmp_path / "mine.gguf", "--recipe", recipe, "--model", model,
        "--alphas", "1,0.5", "--baselines", "ridge,control-vector", "--prompts", 2,
        "--json", tmp_path / "e.json", "--html", tmp_path / "e.html",
    )  # fmt: skip
    found = Evaluation.from_json((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert set(found.best) == {
        *("unsteered", "ceiling", "mine", "ridge", "control-vector"),
        "paper",  # a report always has it
    }
    assert {p.alpha for p in found.points if p.label == "mine"} == {0.5, 1.0}
    assert [p.label for p in found.tests].count("mine") == 1
    # Held-out beginnings choose α; the recipe's own prompts are the test.
    assert (found.chosen_on, found.tested_on) == (Measured(1, 0, 1), Measured(2, 0, 1))
    assert found.prompts == ("item 0", "item 1")
    assert len(found.prompts) == 2
    facts = found.cartridges[0]
    assert facts.content_hash == read_cartridge(tmp_path / "mine.gguf").content_hash
    assert facts.heldout
    assert "<h2" in (tmp_path / "e.html").read_text()
    out = capsys.readouterr().out
    assert "fit (control-vector): baseline 1 of " in out
    assert_all_points_are_told(out)
    text = " ".join(out.split())
    for word in ("distinct-2", "control-vector", "held-out rows", "R²", "α chosen on 1 prompt,"):
        assert word in text


def test_eval_stores_its_figures_in_the_files(
    tiny_path: Callable[..., Path],
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    model, mine = tiny_path(), tmp_path / "mine.gguf"
    run("train", recipe, "--model", model, "-o", mine)
    before = read_cartridge(mine)
    other = tmp_path / "other.gguf"
    other.write_bytes(mine.read_bytes())
    given = ("--recipe", recipe, "--model", model, "--alphas", "0.5,1", "--prompts", 2)
    run("eval", mine, other, *given, "--store", "--json", tmp_path / "e.json")
    found = Evaluation.from_json((tmp_path / "e.json").read_text(encoding="utf-8"))
    for path, label in ((mine, "mine"), (other, "mine (2)")):
        now = read_cartridge(path)
        stored = dict(now.metadata.diagnostics)
        evaluation = stored.pop("evaluation")
        assert stored == before.metadata.diagnostics
        assert now.content_hash == before.content_hash
        assert evaluation["alpha"] == found.best[label]
        assert [point["alpha"] for point in evaluation["points"]] == [0.5, 1.0]
        assert {p["alpha"] for p in evaluation["points"] if p["frontier"]} == {
            alpha for name, alpha in found.frontier if name == label
        }
        (test,) = (point for point in found.tests if point.label == label)
        assert test.scores.distinct is not None
        assert evaluation["test"]["distinct"][0] == round(test.scores.distinct.value, 6)
        assert "distinct" in evaluation["unsteered"]
        assert evaluation["tested_on"] == str(found.tested_on)
        assert evaluation["created"] == "1970-01-02T00:00:00+00:00"
    run("eval", mine, *given, "--store")  # again: it takes the place of the first
    assert set(read_cartridge(mine).metadata.diagnostics) == {*stored, "evaluation"}
    with pytest.raises(LlamacartError, match="--store needs a cartridge file"):
        run("eval", *given, "--baselines", "ridge", "--store")
    with pytest.raises(LlamacartError, match="both name"):
        run("eval", mine, *given, "--store", "--json", mine)
    with pytest.raises(LlamacartError, match="both name"):
        run("eval", mine, mine, *given, "--store")


def test_eval_at_one_strength_chooses_nothing_and_tests_on_everything(
    tiny_path: Callable[..., Path], recipe: Path, tmp_path: Path
) -> None:
    run(
        "eval", "--recipe", recipe, "--model", tiny_path(), "--alphas", "0.5",
        "--baselines", "control-vector", "--json", tmp_path / "e.json",
    )  # fmt: skip
    found = Evaluation.from_json((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert found.chosen_on is None
    assert found.tested_on == Measured(3, 0, 2)
    assert found.points == found.tests


def test_eval_of_a_prompt_sets_it_beside_the_cartridge(
    tiny_path: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "pirate"
    folder.mkdir()
    (folder / "recipe.toml").write_text(
        'name = "pirate"\nkind = "prompt"\nprompt = "Be a pirate."\nexamples = "turns.jsonl"\n'
        'answer_tokens = 6\nquestions = "asked.jsonl"\nneutral = "left.jsonl"\n'
        '[evaluation]\nsystem = "Arr."\ntokens = 6\n'
    )
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Arr, so."}]
    (folder / "turns.jsonl").write_text("\n".join(map(json.dumps, turns)))
    asked = [{"prompt": f"What is {word}?"} for word in ("rum", "a sail", "the sea", "gold")]
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    (folder / "left.jsonl").write_text('{"text": "left alone"}\n')
    model = tiny_path()
    run("train", folder, "--model", model, "-o", tmp_path / "pirate.gguf")
    run(
        "eval", tmp_path / "pirate.gguf", "--recipe", folder, "--model", model,
        "--alphas", "1,0.5", "--prompts", 2, "--json", tmp_path / "e.json",
        "--html", tmp_path / "e.html",
    )  # fmt: skip
    found = Evaluation.from_json((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert [(p.label, p.kind) for p in found.tests] == [
        ("unsteered", "unsteered"),
        ("prompted model", "prompted"),
        ("system prompt", "prompt"),
        ("examples", "prompt"),
        ("pirate", "cartridge"),
        ("paper", "cartridge"),
    ]
    assert all(p.scores.kl_prompted for p in found.tests)
    assert found.objective.endswith("least KL to the prompted model + 1 × KL")
    # The recipe names no prompts, so that those that ship are asked: every second chooses.
    assert found.prompts == builtin_questions("eval")[1:4:2]
    out = capsys.readouterr().out
    assert_all_points_are_told(out)
    out = " ".join(out.split())
    assert "pirate: At α " in out
    assert "prompt tokens are saved a request." in out
    assert "prompted model" in (tmp_path / "e.html").read_text(encoding="utf-8")


def test_tune_writes_a_cartridge_and_goes_on(
    tiny_path: Callable[..., Path],
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    arguments = ("tune", recipe, "--model", tiny_path(), "-o", tmp_path / "t.gguf",
                 "--minutes", "0.01", "--trials", tmp_path / "trials.jsonl")  # fmt: skip
    run(*arguments)
    evidence = read_cartridge(tmp_path / "t.gguf").metadata.diagnostics["tune"]
    table = (tmp_path / "trials.jsonl").read_text().splitlines()
    assert evidence["trials"] == len(table) - 1 >= 3
    out = capsys.readouterr().out
    assert "rung 0 ridge-identity" in out
    lines = out.splitlines()
    assert any(re.match(r"search \(.*, \d+ tokens\): trial 3, ", line) for line in lines)
    assert any(
        line.startswith("search (fit ridge-identity") and ", layer 1 of" in line for line in lines
    )
    assert any(line.startswith("search (the best on the test prompts, ") for line in lines)
    run(*arguments)
    again = (tmp_path / "trials.jsonl").read_text().splitlines()
    assert again[: len(table)] == table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.gguf"], "needs --recipe"),
        (["--recipe", "{recipe}"], "a cartridge file, or --baselines"),
        (["x.gguf", "--recipe", "{recipe}", "--alphas", "0.5,x"], "numbers with commas"),
        (["x.gguf", "--recipe", "{recipe}", "--alphas", "11"], "-10 to 10"),
        (["absent.gguf", "--recipe", "{recipe}"], "absent.gguf"),
        (["--recipe", "{recipe}", "--baselines", "magic", "--model", "{model}"], "'magic'"),
    ],
)
def test_eval_refuses(
    tiny_path: Callable[..., Path], recipe: Path, arguments: list[str], message: str
) -> None:
    filled = [a.format(recipe=recipe, model=tiny_path()) for a in arguments]
    with pytest.raises(LlamacartError, match=message):
        run("eval", *filled)
