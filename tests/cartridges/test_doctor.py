import json

import pytest
import typer
from typer.testing import CliRunner

from llamacart import doctor as module
from llamacart.doctor import cpu_quota, devices, doctor


def run(*arguments):
    app = typer.Typer()
    app.command()(doctor)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def findings(*arguments):
    result = run(*arguments, "--json")
    return result.exit_code, [
        (f["topic"], f["text"], f["verdict"]) for f in json.loads(result.output)
    ]


def test_a_model_that_the_hook_reaches(tiny_path):
    code, found = findings("--model", tiny_path())
    assert code == 0
    assert ("hook", "reaches ffn_swiglu in all 3 layers, 96 neurons each", "ok") in found
    topics = {topic for topic, _, _ in found}
    assert {"versions", "llama.cpp", "device", "OpenMP", "numba cache", "model"} <= topics
    assert not [f for f in found if f[2] == "bad"]


def test_a_model_that_it_does_not_reach(tiny_path):
    code, found = findings("--model", tiny_path(n_expert=2))
    assert code == 1
    ((_, text, _),) = [f for f in found if f[2] == "bad"]
    assert "mixture of experts" in text


def test_for_people(tiny_path):
    result = run("--model", tiny_path())
    assert result.exit_code == 0
    assert "ffn_swiglu" in result.output


def test_there_is_a_processor():
    assert any("CPU" in device for device in devices())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000\n", None), ("150000 100000\n", 1.5), ("nonsense", None), (None, None)],
)
def test_cpu_quota(tmp_path, text, expected):
    path = tmp_path / "cpu.max"
    if text is not None:
        path.write_text(text)
    assert cpu_quota(path) == expected


def test_a_small_quota_is_slow(tmp_path, monkeypatch):
    path = tmp_path / "cpu.max"
    path.write_text("50000 100000")
    monkeypatch.setattr(module, "_CPU_MAX", path)
    (slow,) = [f for f in module.examine_processors() if f.verdict == "slow"]
    assert "--threads 1" in slow.text


def test_missing_instructions_are_named():
    finding = module._instructions("CPU : SSE3 = 1 | AVX2 = 1 | FMA = 1 | REPACK = 1")
    assert (finding.verdict, "without F16C;" in finding.text) == ("slow", True)
    assert module._instructions("AVX2 = 1 | F16C = 1 | FMA = 1").verdict == "ok"


def test_without_a_folder_for_compiled_code(monkeypatch):
    monkeypatch.setattr(module, "KEEP", False)
    (finding,) = [f for f in module.examine_build() if f.topic == "numba cache"]
    assert finding.verdict == "slow"
    assert "NUMBA_CACHE_DIR" in finding.text
