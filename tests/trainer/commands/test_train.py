"""`llamacart train`: the file it writes, what it prints, and what it refuses without writing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llamacart.file.reader import read_cartridge
from llamacart.file.writer import write_cartridge
from llamacart.llama.model import Model
from llamacart_trainer.fitting.training import train
from llamacart_trainer.recipe.recipe import load_task


def test_writes_a_cartridge_and_tells_of_it(
    train_command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tiny_path: Callable[..., Path],
    recipe: Path,
    tmp_path: Path,
) -> None:
    target = tmp_path / "out" / "mine.gguf"
    assert train_command(recipe, "--model", tiny_path(), "-o", target) == 0
    assert read_cartridge(target).name == "mine"
    text = capsys.readouterr().out
    for word in ("layer", "kept", "force", "run the model", "fit  ", "total", "5 pairs"):
        assert word in text


@pytest.mark.parametrize("attention", ["auto", "off"])
def test_python_and_the_command_write_the_same_bytes(
    train_command: Callable[..., int],
    tiny_path: Callable[..., Path],
    recipe: Path,
    tmp_path: Path,
    attention: str,
) -> None:
    model = str(tiny_path(architecture="gemma3"))
    options = ("--model", model, "--flash-attention", attention)
    assert train_command(recipe, *options, "-o", tmp_path / "command.gguf") == 0
    with Model(model, flash_attention=attention, batch_invariant=False) as loaded:
        result = train(load_task(recipe), loaded)
    write_cartridge(result.cartridge, tmp_path / "python.gguf")
    whole = (tmp_path / "command.gguf").read_bytes()
    assert (tmp_path / "python.gguf").read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "recipe.toml").unlink(), "recipe.toml"),
        (lambda folder: (folder / "pairs.jsonl").write_text(""), "no pairs"),
        (
            lambda folder: (folder / "pairs.jsonl").write_text('{"source": "only"}'),
            "found the key 'source'",
        ),
        (
            lambda folder: (folder / "recipe.toml").write_text('name = "m"\nimpact = 1e9\n'),
            "no active neuron",
        ),
    ],
)
def test_refuses_and_writes_nothing(
    train_command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tiny_path: Callable[..., Path],
    recipe: Path,
    tmp_path: Path,
    change: Callable[[Path], object],
    message: str,
) -> None:
    change(recipe)
    target = tmp_path / "mine.gguf"
    target.write_bytes(b"older")
    assert train_command(recipe, "--model", tiny_path(), "-o", target) == 2
    assert message in capsys.readouterr().err
    assert target.read_bytes() == b"older"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.gguf", "recipe"]


def test_missing_model(
    train_command: Callable[..., int], capsys: pytest.CaptureFixture[str], recipe: Path
) -> None:
    assert train_command(recipe, "--model", "absent.gguf") == 2
    assert "'absent.gguf' is not a file" in capsys.readouterr().err


def test_pairs_without_a_recipe(
    train_command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tiny_path: Callable[..., Path],
    recipe: Path,
    tmp_path: Path,
) -> None:
    table = tmp_path / "my.csv"
    table.write_text("prompt,source,target\n" + "what,the red number,le nombre rouge\n" * 3)
    for name, options in {"mine": [], "own": ["--name", "own"]}.items():
        options = ["--pairs", table, "--model", tiny_path(), "-o", tmp_path / "mine.gguf", *options]
        assert train_command(*options) == 0
        assert read_cartridge(tmp_path / "mine.gguf").name == name
    assert "3 pairs" in capsys.readouterr().out
    for options, message in {
        (): "a recipe folder is needed, or --pairs",
        (recipe, "--pairs", table): "are both given; keep one",
        (recipe, "--name", "x"): "a recipe has a name of its own",
        ("--pairs", table, "--name", "a/b"): "name has value 'a/b'",
        ("--pairs", tmp_path / "absent.csv"): "does not exist",
    }.items():
        assert train_command(*options) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.gguf", "my.csv", "recipe"]
