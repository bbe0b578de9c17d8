"""`llamacart`: the commands there are, inspect, and errors of one line with exit code 2."""

from __future__ import annotations

import json
import runpy
import sys
import tomllib
from dataclasses import replace
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path

import numpy as np
import pytest

from llamacart import __version__, cli
from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.file.figures import write_diagnostics
from llamacart.file.reader import read_cartridge
from llamacart.file.writer import write_cartridge
from llamacart.matrix import FactoredMatrix


def run(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr("sys.argv", ["llamacart", *args])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    layer_map = LayerMap.from_dense(1, np.array([2, 5]), np.ones((2, 32)) / 7, np.zeros(2))
    metadata = Metadata("small", description="A small one.", default_alpha=0.5, solver="ridge")
    path = tmp_path / "small.gguf"
    fingerprint = Fingerprint("llama", 2, 32, 16, "ab" * 32, "tiny")
    write_cartridge(Cartridge(metadata, fingerprint, (layer_map,)), path)
    return path


def test_version_and_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"llamacart {__version__}\n"
    assert run(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    for command in ("inspect", "train", "serve"):
        assert command in text


def test_runs_as_a_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["llamacart", "--version"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("llamacart", run_name="__main__")
    assert not stop.value.code
    assert capsys.readouterr().out == f"llamacart {__version__}\n"


def test_inspect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    assert run(monkeypatch, "inspect", str(file), "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["name"] == "small"
    assert summary["default alpha"] == 0.5
    assert summary["active neurons"] == 2
    assert summary["ranks"] == []
    assert summary["layers"] == [{"layer": 1, "kept": 2}]
    assert summary["waits for"] == []
    assert summary["file bytes"] == file.stat().st_size
    assert run(monkeypatch, "inspect", str(file)) == 0
    text = capsys.readouterr().out
    assert "A small one." in text
    assert "tiny: llama, 2 layers" in text


def test_inspect_shows_what_a_cartridge_waits_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    write_cartridge(replace(read_cartridge(file), when=("Velmora", "Tromsø")), file)
    assert run(monkeypatch, "inspect", str(file)) == 0
    assert '["Velmora", "Tromsø"]' in capsys.readouterr().out


def test_inspect_shows_the_ranks_of_factors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    whole = read_cartridge(file)
    width = whole.fingerprint.n_ff
    factors = FactoredMatrix.quantize(np.ones((2, 1)), np.ones((1, width)))
    layers = tuple(replace(m, delta=factors) for m in whole.layers)
    write_cartridge(replace(whole, layers=layers), file)
    assert run(monkeypatch, "inspect", str(file), "--json") == 0
    assert json.loads(capsys.readouterr().out)["ranks"] == [1]


def test_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path
) -> None:
    assert run(monkeypatch, "inspect", str(tmp_path / "absent.gguf")) == 2
    assert capsys.readouterr().err.startswith("error: ")
    file.write_bytes(file.read_bytes()[:-5])
    assert run(monkeypatch, "inspect", str(file)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(file) in error


@pytest.mark.parametrize(
    ("marked", "says"),
    [
        (" [trainer]", "needs the trainer extra: pip install 'llamacart[trainer]' ("),
        (" [server]", "needs the server extra: pip install 'llamacart[server]' ("),
        (" [a, b]", "needs the a,b extras: pip install 'llamacart[a,b]' ("),
        ("", "cannot be loaded: "),
    ],
)
def test_a_command_that_cannot_be_imported_says_what_its_entry_point_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], marked: str, says: str
) -> None:
    point = EntryPoint("fly", f"no_such_package.cli:fly{marked}", "llamacart.commands")
    monkeypatch.setattr(cli, "entry_points", lambda group: [point])
    assert run(monkeypatch, "fly") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: 'llamacart fly' {says}")
    assert "No module named 'no_such_package'" in error
    assert run(monkeypatch, "--help") == 0
    assert ("(broken: " if not marked else "(needs the ") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("marked", "module", "told"),
    [
        (" [wings]", "absent_feathers", True),
        ("", "absent_feathers", False),
        (" [wings]", "llamacart.absent", False),
    ],
)
def test_a_command_may_find_only_when_it_runs_that_its_extra_is_missing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    marked: str,
    module: str,
    told: bool,
) -> None:
    (tmp_path / "plugin_that_flies.py").write_text(
        f"def fly(height: int):\n    'Fly.'\n    import {module}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "plugin_that_flies", raising=False)
    point = EntryPoint("fly", f"plugin_that_flies:fly{marked}", "llamacart.commands")
    monkeypatch.setattr(cli, "entry_points", lambda group: [point])
    if not told:
        monkeypatch.setattr("sys.argv", ["llamacart", "fly", "3"])
        with pytest.raises(ModuleNotFoundError, match=module):
            cli.main()
        return
    assert run(monkeypatch, "fly", "3") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 'llamacart fly' needs the wings extra: pip install")
    assert f"No module named '{module}'" in error


def test_the_extra_is_that_of_the_package_that_brings_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "plugin-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[llamacart.commands]\nfly = absent:fly [wings]\n")
    points = Distribution.at(folder).entry_points
    monkeypatch.setattr(cli, "entry_points", lambda group: points.select(group=group))
    assert run(monkeypatch, "fly") == 2
    assert "pip install 'plugin[wings]'" in capsys.readouterr().err


def test_every_command_outside_the_core_names_an_extra_that_brings_its_needs() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    points = project["project"]["entry-points"]["llamacart.commands"]
    for name, value in points.items():
        point = EntryPoint(name, value, "llamacart.commands")
        package = point.module.partition(".")[0]
        named = [] if package == "llamacart" else [package.removeprefix("llamacart_")]
        assert point.extras == named, f"{name} names {point.extras}"
        assert set(point.extras) <= set(extras)
        assert callable(point.load())


def test_inspect_shows_the_evaluation_that_the_file_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    cartridge = read_cartridge(file)
    for evaluation, shown in (
        (
            {
                "alpha": 0.8,
                "tested_on": "15 prompts",
                "test": {"behaviour": [0.75, 0.5, 0.9]},
                "unsteered": {"behaviour": [0, 0, 0.2], "nll": "?"},
            },
            ("behaviour", "0.750 [0.500, 0.900]", "0.000 [0.000, 0.200]", "nll", "15 prompts"),
        ),
        ({"test": [1], "alpha": None, "recipe": {"a": 1}}, ("small",)),
        ("none", ("small",)),
    ):
        write_diagnostics(file, cartridge, {"evaluation": evaluation})
        assert run(monkeypatch, "inspect", str(file)) == 0
        out = capsys.readouterr().out
        for text in shown:
            assert text in out
