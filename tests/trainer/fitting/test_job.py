"""Checkpoints: what is kept comes back to the bit, and a killed fit ends as if it had not been."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamacart import cli
from llamacart.errors import InputError
from llamacart.file.writer import write_cartridge
from llamacart.llama.model import Model
from llamacart_trainer.fitting import job as job_module
from llamacart_trainer.fitting.job import Job, check_job, remove_job
from llamacart_trainer.fitting.moments import Moments
from llamacart_trainer.fitting.settings import LayerReport
from llamacart_trainer.fitting.training import TrainResult, train
from llamacart_trainer.recipe.recipe import Recipe, Task, TextPair

PAIRS = tuple(TextPair(f"the red number {i}", f"le nombre rouge {i}") for i in range(5))
TASK = Task(Recipe(name="t", threshold=0.1, penalty=1.0), PAIRS)


class KilledError(Exception):
    """Stands for the end of the process."""


def killed_after(model: Model, folder: Path, n_layers: int, task: Task = TASK) -> None:
    """Train until some layers are saved."""
    left = [n_layers]

    def on_layer(_report: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KilledError

    with pytest.raises(KilledError):
        train(task, model, job=folder, on_layer=on_layer)


def file_of(result: TrainResult, path: Path) -> bytes:
    write_cartridge(result.cartridge, path)
    return path.read_bytes()


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("settings", [{"rank": 2}, {"pairing": ["position"], "generate_source": 4}])
def test_a_resumed_fit_gives_the_same_bytes(
    tiny_path: Callable[..., Path], tmp_path: Path, n_layers: int, settings: dict[str, object]
) -> None:
    more = {**settings, "capture": "faithful"} if "pairing" in settings else settings
    task = Task(
        Recipe.model_validate({**TASK.recipe.model_dump(exclude_unset=True), **more}), PAIRS
    )
    with Model(str(tiny_path(architecture="gemma3")), batch_invariant=True) as model:
        whole = file_of(train(task, model), tmp_path / "whole")
        killed_after(model, tmp_path / "job", n_layers, task)
        resumed = train(task, model, job=tmp_path / "job")
    assert resumed.restored == n_layers
    assert any(report.rank == 2 for report in resumed.layers) == ("rank" in settings)
    assert [report.layer for report in resumed.layers] == [0, 1, 2]
    assert file_of(resumed, tmp_path / "resumed") == whole


def test_layers_without_neurons_are_kept_too(tiny_model: Model, tmp_path: Path) -> None:
    report = LayerReport(1, 0, 0, penalty=2.5, spectrum=(3.0, 0.1))
    Job(tmp_path / "job", {}, tiny_model.fingerprint).save(1, None, report)
    assert Job(tmp_path / "job", {}, tiny_model.fingerprint).layer(1) == (None, report)
    assert Job(tmp_path / "job", {}, tiny_model.fingerprint).layer(0) is None


def test_a_layer_behind_a_gap_is_fitted_again(tiny_model: Model, tmp_path: Path) -> None:
    killed_after(tiny_model, tmp_path / "job", 3)
    (tmp_path / "job" / "layer-1.json").unlink()
    assert train(TASK, tiny_model, job=tmp_path / "job").restored == 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"task": Task(TASK.recipe.model_copy(update={"penalty": 2.0}), PAIRS)}, "another recipe"),
        ({"task": Task(TASK.recipe, PAIRS[:4])}, "another data set"),
        ({"task": Task(TASK.recipe, PAIRS, ("a text",))}, "another data set"),
        ({"max_memory": 1 << 30}, "another limit of memory"),
    ],
)
def test_another_fit_is_refused_or_restarted(
    tiny_model: Model, tmp_path: Path, change: dict[str, object], what: str
) -> None:
    folder = tmp_path / "job"
    killed_after(tiny_model, folder, 2)
    task, rest = change.get("task", TASK), {k: v for k, v in change.items() if k != "task"}
    with pytest.raises(InputError, match=rf"{what}.*--restart"):
        train(task, tiny_model, job=folder, **rest)  # type: ignore[arg-type]
    again = train(task, tiny_model, job=folder, restart=True, **rest)  # type: ignore[arg-type]
    assert again.restored == 0


def test_another_model_or_version_is_refused(
    tiny_path: Callable[..., Path],
    tiny_model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "job"
    killed_after(tiny_model, folder, 1)
    with (
        Model(str(tiny_path(seed=5))) as other,
        pytest.raises(InputError, match="another model"),
    ):
        train(TASK, other, job=folder)
    monkeypatch.setattr("llamacart_trainer.fitting.identity.__version__", "99")
    with pytest.raises(InputError, match="another version"):
        train(TASK, tiny_model, job=folder)


def test_another_way_of_computing_is_refused(
    tiny_path: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "job"
    with Model(str(tiny_path()), batch_invariant=False) as model:
        killed_after(model, folder, 1)
    ways: list[dict[str, Any]] = [{}, {"batch_invariant": False, "flash_attention": "off"}]
    for way in ways:
        with (
            Model(str(tiny_path()), **way) as other,
            pytest.raises(InputError, match=r"another way of computing.*--restart"),
        ):
            train(TASK, other, job=folder)


def test_a_folder_of_something_else_is_left_alone(tiny_model: Model, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for restart in (False, True):
        with pytest.raises(InputError, match=r"holds 'thesis.tex'"):
            train(TASK, tiny_model, job=tmp_path, restart=restart)
    with pytest.raises(InputError, match=r"holds 'thesis.tex'"):
        remove_job(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        check_job(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", ["layer-0.json", "layer-0.gguf", "manifest.json"])
def test_a_damaged_checkpoint_is_told(tiny_model: Model, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "job"
    killed_after(tiny_model, folder, 2)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="--restart"):
        train(TASK, tiny_model, job=folder)
    (folder / ".layer-9.json-0123456789abcdef.tmp").write_text("{")
    assert train(TASK, tiny_model, job=folder, restart=True).restored == 0
    remove_job(folder)
    assert not folder.exists()
    remove_job(folder)


def test_moments_are_kept_after_a_while(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(tmp_path / "job", {}, tiny_model.fingerprint)
    moments = Moments(32)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 32)).astype(np.float32)
    moments.add(x, x + 1)
    job.save_moments(3, 1, moments)
    assert job.moments(3) == (0, None)
    monkeypatch.setattr(job_module, "SECONDS_BETWEEN_MOMENTS", 0.0)
    job.save_moments(3, 9, moments)
    moments.add(2 * x, x)
    job.save_moments(3, 10, moments)
    done, restored = job.moments(3)
    assert done == 10
    assert restored is not None
    np.testing.assert_array_equal(restored.pairs.xx, moments.pairs.xx)
    assert len(list((tmp_path / "job").glob("moments-*"))) == 1
    assert job.moments(1) == (0, None)


# --- a process that is killed ---------------------------------------------------------------

SCRIPT = """
import pathlib, sys, time
from llamacart import cli
from llamacart_trainer.fitting import aim
fit = aim.fit_layer
target, most = pathlib.Path(sys.argv[-2]), int(sys.argv.pop())
def slow(*args, **kwargs):
    while len(list(pathlib.Path(f"{target}.job").glob("layer-*.json"))) >= most:
        time.sleep(1)  # until the end
    time.sleep(0.05)
    return fit(*args, **kwargs)
aim.fit_layer = slow
sys.argv = ["llamacart", "train", *sys.argv[1:]]
cli.main()
"""


def test_sigkill_at_random_moments(tiny_path: Callable[..., Path], tmp_path: Path) -> None:
    """Killed three times, with more layers kept each time, and never the last one."""
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "recipe.toml").write_text('name = "t"\nthreshold = 0.1\npenalty = 1.0\n')
    pairs = [{"source": pair.source, "target": pair.target} for pair in PAIRS]
    (recipe / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    model = tiny_path(n_layer=6)
    command = [sys.executable, "-c", SCRIPT, str(recipe), "--model", str(model), "-o"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    whole, killed = tmp_path / "whole.gguf", tmp_path / "killed.gguf"
    subprocess.run(  # noqa: S603
        [*command, str(whole), "6"], check=True, env=environment, capture_output=True
    )
    job = tmp_path / "killed.gguf.job"
    random.seed(3)
    for least in (0, 2, 4):
        process = subprocess.Popen(  # noqa: S603
            [*command, str(killed), str(least + 1)], env=environment, stdout=subprocess.DEVNULL
        )
        while not job.exists() or len(list(job.glob("layer-*.json"))) < least:
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert len(list(job.glob("layer-*.json"))) >= 4
    subprocess.run(  # noqa: S603
        [*command, str(killed), "6"], check=True, env=environment, capture_output=True
    )
    assert killed.read_bytes() == whole.read_bytes()
    assert not job.exists()


def test_the_command_keeps_a_job_folder_that_was_named(
    monkeypatch: pytest.MonkeyPatch, tiny_path: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "recipe.toml").write_text('name = "t"\nthreshold = 0.1\npenalty = 1.0\n')
    (recipe / "pairs.jsonl").write_text('{"source": "one two", "target": "un deux trois"}')
    base = ["llamacart", "train", str(recipe), "--model", str(tiny_path())]
    for more in ([], ["--job", str(tmp_path / "kept")], ["--job", str(tmp_path / "kept")]):
        monkeypatch.setattr("sys.argv", [*base, "-o", str(tmp_path / "t.gguf"), *more])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept", "recipe", "t.gguf"]


# --- Ctrl-C and a full disk -----------------------------------------------------------------


def test_ctrl_c_keeps_layers_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
    train_command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tiny_path: Callable[..., Path],
    recipe: Path,
    tmp_path: Path,
) -> None:
    options = (recipe, "--model", tiny_path(), "-o", tmp_path / "t.gguf")
    save, n_saved = Job.save, [0]

    def interrupted(self: Job, *args: object) -> None:
        if n_saved[0] == 2:
            signal.raise_signal(signal.SIGINT)
        n_saved[0] += 1
        save(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Job, "save", interrupted)
    assert train_command(*options) == 130
    folder = tmp_path / "t.gguf.job"
    assert capsys.readouterr().err == (
        f"stopped: 2 layers kept in {str(folder)!r}; the same command goes on from there, with "
        "--restart it starts over\n"
    )
    monkeypatch.setattr(Job, "save", save)
    assert train_command(*options) == 0
    assert "2 layers were restored" in capsys.readouterr().out
    assert not folder.exists()


def test_ctrl_c_before_a_layer_says_that_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch,
    train_command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tiny_path: Callable[..., Path],
    recipe: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(Job, "layer", lambda *_: signal.raise_signal(signal.SIGINT))
    target = tmp_path / "t.gguf"
    assert train_command(recipe, "--model", tiny_path(), "-o", target) == 130
    assert capsys.readouterr().err == "stopped: no layer was finished, nothing is kept\n"
    assert [path.name for path in tmp_path.iterdir()] == ["recipe"]


@pytest.mark.parametrize("n_kept", [1, 3])
def test_a_full_disk_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
    train_command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tiny_path: Callable[..., Path],
    recipe: Path,
    tmp_path: Path,
    n_kept: int,
) -> None:
    """Full while a layer is saved, or while the cartridge is written at the end."""
    options = (recipe, "--model", tiny_path(), "-o", tmp_path / "t.gguf")
    fsync, left = os.fsync, [2 * n_kept + 1]  # the manifest, then a map and figures for each layer

    def full(descriptor: int) -> None:
        left[0] -= stat.S_ISREG(os.fstat(descriptor).st_mode)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert train_command(*options) == 2
    error = capsys.readouterr().err
    assert "No space left on device; " in error
    assert f"{n_kept} layer" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.tmp"))
    assert not (tmp_path / "t.gguf").exists()
    monkeypatch.setattr(os, "fsync", fsync)
    assert train_command(*options) == 0
    assert f"{n_kept} layers were restored" in capsys.readouterr().out
