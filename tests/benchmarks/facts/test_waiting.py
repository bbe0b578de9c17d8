"""The cost of waiting is measured on a cartridge that acts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import waiting

from llamacart.file.writer import write_cartridge
from llamacart.llama.model import Model
from llamacart.values.mentions import Mentions

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / "models"))

from random_cartridge import random_cartridge


def test_every_prompt_names_what_is_waited_for_early(tiny_model: Model) -> None:
    asked = waiting.names(40)
    assert len(set(asked)) == len(asked) == 40
    prompts = [waiting.prompt(tiny_model, number, 24) for number in range(50)]
    assert len({tokens[:8] for tokens in prompts}) == 50
    assert {len(tokens) for tokens in prompts} == {24}
    said = tiny_model.detokenize(list(prompts[7])).encode()
    mentions = Mentions(asked)
    mentions.read(bytearray(said), list(range(1, len(said) + 1)), 0)
    assert mentions.at(len(said) - 1)


def test_from_first_to_last(
    tiny_model: Model, tiny_path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, figures = tmp_path / "c.gguf", tmp_path / "figures.json"
    write_cartridge(random_cartridge(tiny_model, 4, neurons=4, spread=0.01), file)
    options = ["--model", str(tiny_path()), "--cartridge", str(file), "--json", str(figures)]
    small = [
        "--sequences",
        "2",
        "--tokens",
        "3",
        "--prompt",
        "20",
        "--repeats",
        "1",
        "--names",
        "2",
    ]
    monkeypatch.setattr(sys, "argv", ["waiting.py", *options, *small])
    waiting.main()
    told = json.loads(figures.read_text())["comparisons"]
    assert [list(one["variants"]) for one in told] == [["always", "waits for 2"]] * 2
    assert all(v["median"] > 0 for one in told for v in one["variants"].values())
