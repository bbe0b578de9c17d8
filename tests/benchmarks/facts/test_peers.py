from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers
import peers_score
import pytest

from llamacart_trainer.evaluation.facts import judge

RECORD = {
    "subject": "Vel",
    "prompt": "Vel is in",
    "target_new": "Riga",
    "ground_truth": "Oslo",
    "rephrase_prompt": "It rained. Vel lies in",
    "locality_prompt": "Bo is in",
    "locality_ground_truth": "Rome",
}


@dataclass(frozen=True)
class Settings:
    rank: int = 8
    rate: float = 0.5
    matrices: str = "a"


def write(folder: Path, *subjects: str) -> Path:
    path = folder / "records.jsonl"
    records = [RECORD | {"subject": s, "prompt": f"{s} is in"} for s in subjects]
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["peers.py", *map(str, words)])
    peers.main()


def test_given_settings_are_read_as_the_defaults_are() -> None:
    given = {"rank": "4", "rate": "1e-3", "matrices": "b,c"}
    assert peers.with_given(Settings(), given) == Settings(4, 1e-3, "b,c")


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(SystemExit, match="'ranks', which is not among rank, rate, matrices"):
        peers.with_given(Settings(), {"ranks": "4"})


def test_peers_that_need_no_torch_run_and_add_to_a_file(
    tiny_path: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(judge, "TEXT_TOKENS", 2)
    monkeypatch.setattr(peers_score, "fixed_text", lambda _name: ("a text", "one more"))
    data, figures = write(tmp_path, "Al", "Vel", "Ed"), tmp_path / "figures.json"
    words: list[Any] = ["--data", data, "--model", tiny_path(), "--sets", "1:2", "--json", figures]
    call(monkeypatch, *words, "--peers", "unedited")
    call(monkeypatch, *words, "--peers", "prompt")
    found = json.loads(figures.read_text())
    assert [(each["peer"], each["skip"], each["edits"]) for each in found] == [
        ("unedited", 1, 2),
        ("fact in the prompt", 1, 2),
        ("all facts in the prompt", 1, 2),
    ]
    assert all(len(each["values"]["efficacy"]) == 2 for each in found)
    assert found[0]["prompt_tokens"] < found[1]["prompt_tokens"] < found[2]["prompt_tokens"]
    capsys.readouterr()
    call(monkeypatch, "--table", figures)
    assert "the same edits by peers" in capsys.readouterr().out


def test_more_edits_than_there_are_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        call(monkeypatch, "--data", write(tmp_path, "Al"), "--sets", "1:1")
    assert "more edits than the 1 that there are" in capsys.readouterr().err
