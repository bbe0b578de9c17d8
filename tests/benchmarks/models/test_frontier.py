"""Settings of a recipe as text, the ranks of factors, and a run from first to last."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import frontier
import numpy as np
import pytest

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.matrix import FactoredMatrix, QuantizedMatrix

FRENCH = Path(__file__).parents[3] / "cartridges/library/french/recipe.toml"


def test_keys_are_set_and_others_stay() -> None:
    text = FRENCH.read_text()
    made = tomllib.loads(frontier.with_keys(text, frontier.parse('storage="q4_0"; rank = 16')))
    expected = tomllib.loads(text)
    assert made == expected | {"storage": "q4_0", "rank": 16}
    assert tomllib.loads(frontier.with_keys(text, {})) == expected


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(ValueError, match="'rank' is not of the form"):
        frontier.parse("rank")


def test_settings_have_names_of_their_own() -> None:
    assert frontier.label('storage="q4_0"; rank = 16') == "storage-q4-0-rank-16"
    assert frontier.label("") == "as-it-is"


def test_ranks_of_factors() -> None:
    neurons, bias = np.arange(5, dtype=np.int32), np.ones(5, np.float32)
    deltas = [
        None,
        QuantizedMatrix(np.full((5, 64), 127, np.int8), np.ones((5, 2), np.float16)),
        *(FactoredMatrix.quantize(np.ones((5, r)), np.ones((r, 64))) for r in (1, 4)),
    ]
    maps = tuple(LayerMap(i, neurons, delta, bias) for i, delta in enumerate(deltas))
    cartridge = Cartridge(Metadata("c"), Fingerprint("a", 4, 64, 8, "0" * 64), maps)
    assert frontier.ranks(cartridge) == "1 / 2.5 / 4"
    assert frontier.ranks(replace(cartridge, layers=maps[:2])) == ""


def test_a_run_from_first_to_last(
    tiny_path: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both commands run in processes of their own, on a recipe of a few pairs."""
    recipe, folder = tmp_path / "recipe", tmp_path / "out"
    recipe.mkdir()
    (recipe / "recipe.toml").write_text(
        'name = "t"\nthreshold = 0.1\npenalty = 1.0\nprompts = "prompts.jsonl"\n'
        '[evaluation]\nlanguage = "fr"\nvalidation = "validation.jsonl"\ntokens = 4\n'
    )
    pairs = [{"source": f"the red {i}", "target": f"le rouge {i}"} for i in range(5)]
    (recipe / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    for name in ("prompts", "validation"):
        prompts = [{"prompt": f"{name} {i}"} for i in range(3)]
        (recipe / f"{name}.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    settings = ["rank=2", 'rank="full"', "--recipe", str(recipe), "--model", str(tiny_path())]
    monkeypatch.setattr(sys, "argv", ["frontier.py", str(folder), *settings])
    frontier.main()
    shown = capsys.readouterr().out
    assert "2 / 2.0 / 2" in shown
    assert "unsteered" in shown
    assert 'rank="full"' in shown
    sizes = [(folder / f"{name}.gguf").stat().st_size for name in ("rank-2", "rank-full")]
    assert sizes[0] < sizes[1]
