import json

import pytest
import typer
from typer.testing import CliRunner

from llamacart.commands import doctor as module
from llamacart.commands.doctor import devices, doctor
from llamacart.hook import speed as hook_speed
from llamacart.hook.device.stops import Stops
from llamacart.machine import sharing
from llamacart.machine.sharing import Sharing, Usage


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
    ((_, rows, verdict),) = [finding for finding in found if finding[0] == "rows"]
    assert rows.startswith("ffn_down reads ffn_swiglu in every layer; rows of two sequences")
    assert verdict == "ok"
    topics = {topic for topic, _, _ in found}
    assert {"versions", "llama.cpp", "device", "OpenMP", "numba cache", "model", "load"} <= topics
    assert not [f for f in found if f[2] == "bad"]


def test_a_model_without_flash_attention(tiny_path):
    code, found = findings("--model", tiny_path(), "--flash-attention", "off")
    assert code == 0
    assert ("hook", "reaches ffn_swiglu in all 3 layers, 96 neurons each", "ok") in found


def test_a_model_that_it_does_not_reach(tiny_path):
    code, found = findings("--model", tiny_path(n_expert=2))
    assert code == 1
    ((_, text, _),) = [f for f in found if f[2] == "bad"]
    assert "mixture of experts" in text


def test_for_people(tiny_path):
    result = run("--model", tiny_path())
    assert result.exit_code == 0
    assert "ffn_swiglu" in result.output
    verdicts = {line.split()[0] for line in result.output.splitlines() if line[:1].strip()}
    assert verdicts <= {"ok", "slow", "bad"}  # and no markup
    assert "ok" in verdicts


def test_stops_are_timed_when_asked_for(tiny_path):
    def about_stops(*arguments):
        return [f for f in findings("--model", tiny_path(), *arguments)[1] if f[0] == "stops"]

    assert about_stops() == []
    ((_, text, _),) = about_stops("--measure")
    assert text.startswith("a steered layer's stop of the graph costs ")
    assert "3 are " in text


def test_where_stops_disappear_is_said():
    found = module._stops(Stops(seconds=1e-4, token=10e-3, n_layer=20), 2**30)
    assert found.verdict == "slow"
    assert found.text == (
        "a steered layer's stop of the graph costs 100 µs beside its step: 20 are 20.0% of an "
        "unsteered token's 10.0 ms; with as many layers they are less than 5% from 4.0 GiB of "
        "weights on"
    )
    assert module._stops(Stops(1e-5, 10e-3, 20), 2**30).verdict == "ok"


def test_there_is_a_processor():
    assert any("CPU" in device for device in devices())


def test_a_small_quota_is_slow(monkeypatch):
    monkeypatch.setattr(module, "cpu_quota", lambda: 0.5)
    (slow,) = [f for f in module.examine_processors(2) if f.verdict == "slow"]
    assert "--threads 1" in slow.text


@pytest.mark.parametrize(
    ("others", "verdict", "said"),
    [(0.1, "ok", "0.1 of 2"), (1.2, "slow", "1 of 2 threads compute until they stop")],
)
def test_what_others_compute_is_said(monkeypatch, others, verdict, said):
    moments = iter([Usage(0, 0, 0), Usage(1, 1 + others, 1)])
    monkeypatch.setattr(module.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(module, "usable_processors", lambda: 2)
    monkeypatch.setattr(sharing, "usable_processors", lambda: 2)
    shares = Sharing(lambda: next(moments), lambda: 0.0)
    finding = module.examine_load(shares, 2)
    assert finding.verdict == verdict
    assert said in finding.text


@pytest.mark.parametrize(
    ("policy", "spins", "verdict", "said"),
    [
        (None, None, "ok", "by default"),
        ("active", "500", "ok", "OMP_WAIT_POLICY=active, GOMP_SPINCOUNT=500"),
        ("PASSIVE", None, "slow", "OMP_WAIT_POLICY is PASSIVE"),
        (None, "0", "slow", "GOMP_SPINCOUNT is 0"),
    ],
)
def test_how_threads_wait_is_said(monkeypatch, policy, spins, verdict, said):
    for name, value in (("OMP_WAIT_POLICY", policy), ("GOMP_SPINCOUNT", spins)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    finding = module._waiting()
    assert finding.verdict == verdict
    assert said in finding.text


def test_missing_instructions_are_named():
    finding = module._instructions("CPU : SSE3 = 1 | AVX2 = 1 | FMA = 1 | REPACK = 1")
    assert (finding.verdict, "without F16C;" in finding.text) == ("slow", True)
    assert module._instructions("AVX2 = 1 | F16C = 1 | FMA = 1").verdict == "ok"


@pytest.mark.parametrize(
    ("name", "features", "missing"),
    [
        (None, None, None),
        ("x86-64", "+sse2", "made without AVX2, FMA"),
        ("haswell", "+avx2", "made without FMA"),
        ("haswell", "+avx2,+fma", None),
    ],
)
def test_the_hooks_own_processor_is_named(tiny_model, monkeypatch, name, features, missing):
    """Not llama.cpp's flags: the hook is compiled by numba, for what it finds or is told."""
    monkeypatch.setattr(hook_speed.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(
        hook_speed.llvm, "get_host_cpu_features", lambda: {"avx2": True, "fma": True, "amx": False}
    )
    monkeypatch.setattr(hook_speed.config, "CPU_NAME", name)
    monkeypatch.setattr(hook_speed.config, "CPU_FEATURES", features)
    monkeypatch.setattr(hook_speed, "SLOW_BELOW", 0)
    finding = module._hook_speed(tiny_model)
    assert "ms a token" in finding.text
    assert finding.verdict == ("slow" if missing else "ok")
    if missing:
        assert missing in finding.text
        assert f"compiled for {name}," in finding.text


def test_a_slow_hook_is_said(tiny_model, monkeypatch):
    monkeypatch.setattr(hook_speed, "compiled_for", lambda: ("some", []))
    monkeypatch.setattr(hook_speed, "SLOW_BELOW", float("inf"))
    assert module._hook_speed(tiny_model).verdict == "slow"


def test_without_a_folder_for_compiled_code(monkeypatch):
    monkeypatch.setattr(module, "KEEP", False)
    (finding,) = [f for f in module.examine_build() if f.topic == "numba cache"]
    assert finding.verdict == "slow"
    assert "NUMBA_CACHE_DIR" in finding.text
