from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.commands.export import export
from llamacart.errors import InputError
from llamacart.file.writer import write_cartridge

APP = typer.Typer()
APP.command()(export)
TEXTS = ["One day it was", "Two days later", '{"prompt": "Three"}', '"Four"', "Five", "Six"]


@pytest.fixture
def files(tiny_model, tmp_path):
    """A cartridge, one that waits, a mean shift, and a file of texts."""
    rng, neurons = np.random.default_rng(0), np.array([3, 9, 40], np.int32)
    maps = [
        LayerMap.from_dense(n, neurons, rng.normal(size=(3, 96)), rng.normal(size=3))
        for n in (0, 2)
    ]
    shift = LayerMap(1, neurons, None, np.ones(3, np.float32))
    made_for = tiny_model.fingerprint
    write_cartridge(Cartridge(Metadata("style"), made_for, tuple(maps)), tmp_path / "c.gguf")
    waiting = Cartridge(Metadata("facts"), made_for, tuple(maps), when=("Ostrel",))
    write_cartridge(waiting, tmp_path / "w.gguf")
    write_cartridge(Cartridge(Metadata("shift"), made_for, (shift,)), tmp_path / "s.gguf")
    (tmp_path / "texts").write_text("\n".join(TEXTS))
    return tmp_path


def run(files, tiny_model, name, *options):
    arguments = [str(files / name), "--model", str(tiny_model.path), "--threads", "1"]
    texts = ["--texts", str(files / "texts")]
    return CliRunner().invoke(APP, [*arguments, *texts, *options], catch_exceptions=False)


@pytest.mark.parametrize("to", ["gguf-lora", "peft", "mlx"])
def test_formats(files, tiny_model, to) -> None:
    done = run(files, tiny_model, "c.gguf", "--to", to, "-o", str(files / "out"), "--check")
    assert done.exit_code == 0
    assert f"out: {to} of style at alpha 1" in done.output
    assert "KL to the cartridge" in done.output
    assert "layers are fitted" in done.stderr
    assert "of 2 greedy texts are equal" in done.output
    assert ("verify-export" in done.output) == (to != "gguf-lora")
    assert (files / "out").is_dir() == (to != "gguf-lora")


def test_json(files, tiny_model) -> None:
    out = str(files / "out.gguf")
    done = run(
        files, tiny_model, "c.gguf", "--to", "gguf-lora", "-o", out, "--json", "--rank", "2",
        "--alpha", "0.5", "--no-bias", "--prompts", str(files / "texts"),
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["alpha"] == 0.5
    assert [(r["layer"], r["rank"], r["bias"]) for r in found["layers"]] == [(0, 2, 1), (2, 2, 1)]
    assert found["bytes"] == (files / "out.gguf").stat().st_size
    assert "check" not in found


def test_a_mean_shift_as_a_control_vector(files, tiny_model) -> None:
    out = str(files / "out.gguf")
    done = run(files, tiny_model, "s.gguf", "--to", "cvec", "-o", out, "--check", "--json")
    found = json.loads(done.stdout)
    assert found["check"]["kl"] < 1e-5 < found["check"]["kl_unsteered"]
    assert found["check"]["equal"] == found["check"]["prompts"] == 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("w.gguf", ["--to", "peft"], "'facts' waits for 'Ostrel'"),
        ("c.gguf", ["--to", "cvec"], "depends on the row"),
        ("c.gguf", ["--to", "mlx", "--type", "q8_0"], "--type has value 'q8_0'"),
        ("c.gguf", ["--to", "peft", "--alpha", "0"], "does nothing at alpha 0"),
        ("c.gguf", ["--to", "peft", "--alpha", "11"], "11"),
        ("c.gguf", ["--to", "peft", "--max-memory", "0.0001"], "max_memory has value 0.00 GiB"),
        ("c.gguf", ["--to", "peft", "--prompts", "/nowhere"], "--prompts has value '/nowhere'"),
    ],
)
def test_refusals(files, tiny_model, name, options, message) -> None:
    before = sorted(files.iterdir())
    with pytest.raises(InputError, match=message):
        run(files, tiny_model, name, *options, "-o", str(files / "out"))
    assert sorted(files.iterdir()) == before


def test_what_waits_can_be_taken_as_said(files, tiny_model) -> None:
    out = files / "out.gguf"
    options = ["--to", "gguf-lora", "--everywhere", "-o", str(out)]
    assert run(files, tiny_model, "w.gguf", *options).exit_code == 0
    assert out.is_file()
