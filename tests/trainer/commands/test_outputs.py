"""Outputs are looked at before the work: nothing is loaded, fitted or left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llamacart import cli
from llamacart.disk.whole import check_folder, check_target
from llamacart.errors import InputError
from llamacart.llama import model as model_module
from llamacart_trainer.commands.outputs import check_outputs


@pytest.fixture
def recipe(recipe: Path, tmp_path: Path) -> Path:
    with (recipe / "recipe.toml").open("a") as file:
        file.write('heldout = "pairs.jsonl"\nprompts = "prompts.jsonl"\n')
    (recipe / "prompts.jsonl").write_text('{"prompt": "item"}\n{"prompt": "thing"}\n')
    for name in ("france_ds.json", "moon_cheese_ds.json"):
        (recipe / name).write_text("[]")
    (tmp_path / "file").write_text("a file")
    return recipe


class LoadedError(Exception):
    """A model was to be loaded: the work has begun."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train {recipe} -o {folder}", "--output has value '{folder}': a folder"),
        ("train {recipe} -o .", "--output has value '.': a folder"),
        ("train {recipe} -o {file}/new.gguf", "'{file}' is not a folder"),
        ("train {recipe} -o {new} --job {file}", "--job has value '{file}': '{file}' is not a"),
        ("tune {recipe} -o {folder}", "--output has value"),
        ("tune {recipe} -o {new} --trials {folder}", "--trials has value"),
        ("tune {recipe} -o {new} --trials {new}", "--output and --trials both name"),
        ("eval --recipe {recipe} --baselines ridge --json {folder}", "--json has value"),
        ("eval --recipe {recipe} --baselines ridge --html {file}/a/b", "--html has value"),
        ("eval --recipe {recipe} --baselines ridge --html {new} --json {new}", "both name"),
        ("eval --recipe {recipe} --baselines ridge --json /dev/null", "not a regular file"),
        ("reproduce paper --data {recipe} --json {folder}", "--json has value"),
        ("reproduce paper --data {recipe} -o {file}", "--output has value"),
    ],
)
def test_no_command_begins_what_it_cannot_write(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recipe: Path,
    tmp_path: Path,
    arguments: str,
    message: str,
) -> None:
    def load(*_args: object, **_more: object) -> None:
        raise LoadedError

    monkeypatch.setattr(model_module, "Model", load)
    places = {
        "recipe": recipe,
        "folder": tmp_path,
        "file": tmp_path / "file",
        "new": tmp_path / "deep" / "new.gguf",
    }
    monkeypatch.setattr(
        "sys.argv", ["llamacart", *(word.format(**places) for word in arguments.split())]
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert message.format(**places) in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "recipe"]


def test_what_can_be_written_leaves_no_trace(tmp_path: Path) -> None:
    there = tmp_path / "there.json"
    there.write_text("older")
    check_outputs(
        {"--json": there, "--html": tmp_path / "a" / "b.html", "-o": None}, {"--job": tmp_path}
    )
    check_target(Path("relative.json"), "--json")
    assert [path.name for path in tmp_path.iterdir()] == ["there.json"]
    assert there.read_text() == "older"


def test_what_the_system_refuses_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--json has value .*cannot be written"):
        check_target(tmp_path / ("x" * 300), "--json")
    with pytest.raises(InputError, match=r"--json has value .*cannot be written"):
        check_target(tmp_path / "a\0b", "--json")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="not a regular file"):
        check_target(pipe, "--json")
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o500)
    if os.geteuid():  # root may write anywhere
        with pytest.raises(InputError, match="Permission denied"):
            check_folder(closed, "-o")


def test_the_tables_are_printed_before_files_are_written(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_path: Callable[..., Path],
    recipe: Path,
    tmp_path: Path,
) -> None:
    """A disk that fills up while the work goes on costs the file, not the figures."""

    def full(*_args: object) -> None:
        raise InputError("no space left")

    monkeypatch.setattr("llamacart_trainer.commands.train.save_cartridge", full)
    target = tmp_path / "mine.gguf"
    monkeypatch.setattr(
        "sys.argv",
        ["llamacart", "train", str(recipe), "--model", str(tiny_path()), "-o", str(target)],
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert "fidelity" in printed.out
    assert "no space left" in printed.err
