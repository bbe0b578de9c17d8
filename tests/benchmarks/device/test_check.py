import json
import sys
from pathlib import Path

import check
import parts
import pytest
from check import judged, main, timed
from parts import Line, Speed


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["check.py", *arguments])
    return main()


def test_tables_are_markdown() -> None:
    text = judged([Line("a", 0.5, 0.1, note="n"), Line("b", 0.5, 0.1, at_least=True), Line("c", 1)])
    assert text.splitlines()[2:] == [
        "| a (n) | 0.5 | at most 0.1 | **FAILED** |",
        "| b | 0.5 | at least 0.1 | ok |",
        "| c | 1 |  |  |",
    ]
    steered = Speed("s", "steered on the device", 3.0, 1.5, stops=18, copied=64, waits=1)
    lines = timed([Speed("s", "no callback", 2.0), steered]).splitlines()
    assert lines[-1] == "| s | steered on the device | 3.00 | 1.50 | 18 | 1 | 64 |"
    assert len({line.count("|") for line in lines}) == 1


def test_all_but_the_training_of_a_tiny_model(
    tiny_path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "made" / "check.json"
    options = ("--model", str(tiny_path()), "--steps", "2", "--prefill", "20", "--neurons", "6")
    others = ("--flash-attention", "off", "--skip", "train", "--json", str(file))
    assert run(monkeypatch, *options, *others) == 0
    out = capsys.readouterr().out
    assert "all within their bounds" in out
    assert "- devices: CPU: " in out
    found = json.loads(file.read_text())
    assert len(found["speeds"]) == 9
    assert all(line["passed"] for line in found["lines"])
    assert found["facts"]["flash attention"] == "off"


def test_what_is_out_of_bounds_is_named_and_ends_with_1(
    tiny_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "training", lambda _setup, pairs: [Line("x", pairs, 1.0)])
    options = ("--model", str(tiny_path()), "--only", "train", "--pairs", "2")
    assert run(monkeypatch, *options) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "FAILED: x"


def test_a_small_french_is_trained(tiny_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamacart.llama.model import Model

    with Model(str(tiny_path()), batch_invariant=False) as model:
        lines = parts.training(parts.Setup(model, model, "device"), 4)
    assert [line.name.split(":")[0] for line in lines] == ["training"] * 3
    assert lines[0].bound == parts.FRENCH_BOUND
    assert lines[2].value > 0
