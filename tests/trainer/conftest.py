"""A recipe folder of five pairs, and the command that fits it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llamacart import cli


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "recipe.toml").write_text('name = "mine"\nthreshold = 0.1\npenalty = 1.0\n')
    pairs = [{"source": f"the red number {i}", "target": f"le nombre rouge {i}"} for i in range(5)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return folder


@pytest.fixture
def train_command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Function from the arguments of `llamacart train` to its exit code."""

    def run(*args: object) -> int:
        monkeypatch.setattr("sys.argv", ["llamacart", "train", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0)

    return run
