"""How many threads: what the machine grants, and what is refused wherever threads are given."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llamacart.cli import build_app
from llamacart.errors import InputError
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.machine import processors
from llamacart.machine.processors import choose_threads, cpu_quota, default_threads
from llamacart.passes.embedding import Embedder
from llamacart.runner import LlamaRunner

MADE: dict[str, Callable[..., object]] = {
    "context": lambda model, n: Context(model, n_ctx=64, n_threads=n),
    "runner": lambda model, n: LlamaRunner(model, n_ctx=64, n_threads=n),
    "embedder": lambda model, n: Embedder(model, n_ctx=64, n_threads=n),
}
COMMANDS = {
    "train": ["recipe"],
    "eval": [],
    "tune": ["recipe"],
    "reproduce": ["paper", "--data", "x"],
    "serve": [],
    "doctor": [],
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("wanted", [0, -1, 513])
def test_threads_that_llama_cpp_cannot_start(tiny_model: Model, name: str, wanted: int) -> None:
    with pytest.raises(InputError, match=f"threads has value {wanted}; 1 to 512"):
        MADE[name](tiny_model, wanted)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--threads", "0"),
        ("--threads", "513"),
        ("--gpu-layers", "-7"),
        ("--flash-attention", "maybe"),
    ],
)
def test_every_command_checks_alike(name: str, option: str, value: str) -> None:
    result = CliRunner().invoke(build_app(), [name, *COMMANDS[name], option, value])
    assert isinstance(result.exception, InputError)
    name = option.removeprefix("--").replace("-", "_")
    assert name in str(result.exception)
    assert f"has value {value}" in str(result.exception).replace("'", "")


def test_layers_below_all(tiny_path: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="gpu_layers has value -7"):
        Model(str(tiny_path()), gpu_layers=-7)


@pytest.mark.parametrize(
    ("allowed", "quota", "expected"),
    [(8, None, 8), (8, 2.5, 2), (8, 0.3, 1), (2, 6.0, 2), (700, None, 512)],
)
def test_default(
    monkeypatch: pytest.MonkeyPatch, allowed: int, quota: float | None, expected: int
) -> None:
    monkeypatch.setattr(processors, "usable_processors", lambda: allowed)
    monkeypatch.setattr(processors, "cpu_quota", lambda: quota)
    assert default_threads() == choose_threads(None) == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_default_follows_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3})
    assert processors.usable_processors() == 1


class TestQuota:
    """Files as Linux lays them out, of both versions."""

    def quota(self, folder: Path, own: str | None, files: dict[str, str]) -> float | None:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        groups = folder / "own"
        if own is not None:
            groups.write_text(own)
        return cpu_quota(folder, groups)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("max 100000\n", None), ("150000 100000\n", 1.5), ("nonsense", None), ("5 0", None)],
    )
    def test_a_container_that_sees_itself_as_root(
        self, tmp_path: Path, text: str, expected: float | None
    ) -> None:
        assert self.quota(tmp_path, "0::/\n", {"cpu.max": text}) == expected
        assert self.quota(tmp_path, None, {}) == expected

    def test_the_smallest_on_the_way_up_counts(self, tmp_path: Path) -> None:
        files = {
            "a/cpu.max": "300000 100000",
            "a/b/cpu.max": "100000 100000",
            "a/b/c/cpu.max": "max 100000",
            "d/cpu.max": "1000 100000",
        }
        assert self.quota(tmp_path, "0::/a/b/c\n", files) == 1.0

    @pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
    @pytest.mark.parametrize("place", ["docker/x", ""])
    def test_version_1(self, tmp_path: Path, mount: str, place: str) -> None:
        folder = f"{mount}/{place}" if place else mount
        files = {
            f"{folder}/cpu.cfs_quota_us": "250000\n",
            f"{folder}/cpu.cfs_period_us": "100000\n",
            f"{mount}/other/cpu.cfs_quota_us": "1000\n",
            f"{mount}/other/cpu.cfs_period_us": "100000\n",
        }
        own = "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/\n"
        assert self.quota(tmp_path, own, files) == 2.5

    def test_version_1_without_limit(self, tmp_path: Path) -> None:
        files = {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}
        assert self.quota(tmp_path, "4:cpu:/\n", files) is None
