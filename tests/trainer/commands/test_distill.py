"""`llamacart distill`: the whole way on a tiny model, and what a stopped run leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamacart import cli
from llamacart.file.reader import read_cartridge
from llamacart_trainer.commands import progress
from llamacart_trainer.drafting import asking
from llamacart_trainer.recipe import recipe as recipe_module
from llamacart_trainer.recipe.recipe import load_task

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    messages = [{"prompt": f"Why is it {n}?"} for n in range(12)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, messages)))
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Arr!"}]
    (tmp_path / "turns.jsonl").write_text("\n".join(map(json.dumps, turns)))
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(recipe_module, "builtin_neutral", lambda **_: ("2, 4, 6", "x = 1"))
    return tmp_path


@pytest.fixture
def distill(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tiny_path: Callable[..., Path]
) -> Callable[..., int]:
    def run(*args: object, template: str = TEMPLATE) -> int:
        model = tiny_path(chat_template=template)
        given = ["llamacart", "distill", *args, "--model", model, "--questions", "mine.jsonl"]
        monkeypatch.setattr("sys.argv", list(map(str, given)))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0)

    return run


@pytest.mark.parametrize("form", ["chat", "text"])
def test_from_a_wish_to_a_cartridge(
    distill: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    template = TEMPLATE if form == "chat" else ""
    given = ("Be a pirate.", "--examples", "turns.jsonl", "-o", "out/pirate.gguf")
    assert distill(*given, template=template) == 0
    cartridge = read_cartridge(folder / "out" / "pirate.gguf")
    recipe = folder / "out" / "pirate-recipe"
    task = load_task(recipe)
    assert task.recipe.format == form
    assert cartridge.name == task.recipe.name == "pirate"
    assert cartridge.metadata.default_alpha == task.recipe.default_alpha
    assert task.prompt is not None
    assert [turn.content for turn in task.prompt.turns] == ["Be a pirate.", "Hi", "Arr!"]
    assert task.prompt.answers
    assert cartridge.metadata.dataset_hash == task.dataset_hash
    evaluation = cartridge.metadata.diagnostics["evaluation"]
    assert evaluation["alpha"] == cartridge.metadata.default_alpha
    assert len(evaluation["points"]) == 3
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["pirate-recipe", "pirate.gguf"]
    assert not list(recipe.glob("*partial*"))
    out = capsys.readouterr().out
    assert "the cartridge removes" in out
    answers = task.prompt.answers
    cut = sum(not answer.ended for answer in answers)
    assert f"{cut} of {len(answers)} answers were cut at 64 tokens, and teach" in out
    lines = [line.rsplit(", ", 1)[0] for line in out.splitlines()]
    assert "answers: answer 10 of 10, 100 %" in lines
    assert any(line.startswith("answers: answer 0 of 10, 1") for line in lines)
    measured = [line for line in lines if line.startswith("measure")]
    assert re.fullmatch(r"measure \(pirate at α = .*\): point 7 of 7, 100 %", measured[-1])
    # Each point moves while it is measured.
    moving = {match[1] for line in measured if (match := re.search(r"tokens\): point (\d)", line))}
    assert moving >= set("012346")
    assert not any("point 8" in line for line in lines)
    assert out.splitlines()[-1].startswith("  llamacart serve --model ")
    assert out.splitlines()[-1].endswith("--cartridges out")


def test_a_stopped_run_goes_on_to_the_same_bytes(
    distill: Callable[..., int],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    given = ("Be a pirate.", "--alpha", "0.9")
    assert distill(*given, "--keep", "whole", "-o", "a/pirate.gguf") == 0
    monkeypatch.setattr(asking, "QUESTIONS_AT_ONCE", 4)
    true, calls = asking.answer, []

    def answer(*args: Any, **more: Any) -> Any:
        calls.append(len(args[2]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return true(*args, **more)

    monkeypatch.setattr(asking, "answer", answer)
    again = (*given, "--keep", "parts", "-o", "b/pirate.gguf")
    capsys.readouterr()
    assert distill(*again) == 130
    assert capsys.readouterr().err == (
        "stopped: 4 answers are kept in 'parts'; the same command goes on from there\n"
    )
    assert distill(*again) == 0
    assert calls == [4, 4, 4, 2]
    first, second = (folder / name / "pirate.gguf" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    metadata = read_cartridge(first).metadata
    assert metadata.default_alpha == 0.9
    assert metadata.diagnostics["evaluation"]["created"] == ""  # no clock


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "needs a wish, --prompt FILE or --examples FILE"),
        (("Be brief.", "--prompt", "turns.jsonl"), "by --prompt; keep one"),
        ((" ",), "the wish has no text"),
        (("--prompt", "empty.txt"), "'empty.txt' has no text"),
        (("--examples", "mine.jsonl"), "mine.jsonl:1: found the key 'prompt'"),
        (("Be brief.", "--alpha", "99"), "99"),
        (("Be brief.", "-o", "a b.gguf"), "cannot be called 'a b'"),
        (("Be brief.", "-o", "."), "a folder"),
    ],
)
def test_refuses_before_the_model_is_loaded(
    distill: Callable[..., int],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    given: tuple[str, ...],
    message: str,
) -> None:
    (folder / "empty.txt").write_text("\n")
    before = sorted(folder.iterdir())
    assert distill(*given) == 2
    assert message in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before
