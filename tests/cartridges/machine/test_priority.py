"""Offline commands give way to other programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llamacart.cli import build_app
from llamacart.errors import InputError
from llamacart.machine.priority import LOWEST, give_way

pytestmark = pytest.mark.skipif(not hasattr(os, "setpriority"), reason="the system has no nice")

SCRIPT = """
import os, sys, threading
from pathlib import Path
from llamacart.machine.priority import give_way

done = threading.Event()
threading.Thread(target=done.wait).start()  # as NumPy has some before a command begins
before = os.getpriority(os.PRIO_PROCESS, 0)
got = [give_way(before + 3), give_way(0)]
tasks = Path("/proc/self/task")
ids = [int(t.name) for t in tasks.iterdir()] if tasks.is_dir() else [0]
print(before, *got, *sorted({os.getpriority(os.PRIO_PROCESS, i) for i in ids}))
done.set()
"""


def test_every_thread_gives_way_and_none_comes_back() -> None:
    command = [sys.executable, "-c", SCRIPT]
    run = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    before, *rest = map(int, run.stdout.split())
    expected = min(before + 3, LOWEST)
    assert rest == [expected, expected, expected]


@pytest.mark.parametrize("nice", [-1, 20])
def test_priorities_that_nobody_may_take(nice: int) -> None:
    with pytest.raises(InputError, match=f"nice has value {nice}"):
        give_way(nice)


@pytest.mark.parametrize("given", [[], ["--nice", "0"], ["--nice", "7"]])
@pytest.mark.parametrize("command", ["train", "tune", "eval", "reproduce"])
def test_commands_give_way_unless_told_otherwise(
    tmp_path: Path, priorities: list[int], command: str, given: list[str]
) -> None:
    """They say so before anything can go wrong with what they were given."""
    (tmp_path / "france_ds.json").touch()
    (tmp_path / "moon_cheese_ds.json").touch()
    arguments = {
        "train": [str(tmp_path)],
        "tune": [str(tmp_path)],
        "eval": ["--recipe", str(tmp_path), "--baselines", "all"],
        "reproduce": ["paper", "--data", str(tmp_path), "--model", str(tmp_path)],
    }[command]
    result = CliRunner().invoke(build_app(), [command, *arguments, *given])
    assert result.exception is not None
    expected = int(given[1]) if given else LOWEST
    assert priorities == [expected]
    assert ("gives way to other programs" in result.output) == (expected > 0)


@pytest.mark.parametrize("command", ["train", "tune", "eval", "reproduce"])
def test_a_priority_is_checked(command: str) -> None:
    result = CliRunner().invoke(build_app(), [command, "--nice", "20", "x"])
    assert "nice has value 20" in str(result.exception)
