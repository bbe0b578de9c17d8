from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from llamacart import cli
from llamacart_trainer.commands.new import KindChoice
from llamacart_trainer.recipe.recipe import load_task
from llamacart_trainer.starters.kinds import KINDS

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


@pytest.fixture
def new(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> int:
        monkeypatch.setattr("sys.argv", ["llamacart", "new", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0)

    return run


def test_the_command_knows_every_kind_that_works() -> None:
    assert [choice.value for choice in KindChoice] == list(KINDS)


def test_says_what_to_run_next(
    new: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert new("my own", "--kind", "style") == 2
    assert "cannot be called 'my own'" in capsys.readouterr().err
    assert new("a b/butler", "--kind", "style") == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("  ")]
    assert [command[:2] for command in commands] == [
        ["llamacart", name] for name in ("train", "eval", "serve")
    ]
    assert commands[0][2:] == ["a b/butler", "-o", "my-cartridges/butler.gguf"]
    assert load_task(tmp_path / "a b" / "butler").recipe.name == "butler"
    assert new("a b/butler") == 2
    assert "exists already" in capsys.readouterr().err


def test_the_model_decides_the_form(
    new: Callable[..., int], tiny_path: Callable[..., Path], tmp_path: Path
) -> None:
    for name, path, form in (
        ("raw", tiny_path(), "text"),
        ("talks", tiny_path(chat_template=TEMPLATE), "chat"),
    ):
        assert new(name, "--kind", "prompt", "--model", path) == 0
        recipe = load_task(tmp_path / name).recipe
        assert (recipe.format, recipe.model) == (form, str(path))
    assert new("none", "--model", "absent.gguf") == 2
    assert not (tmp_path / "none").exists()
