"""Settings of a recipe as text, and the bytes that factors would take."""

from __future__ import annotations

import tomllib
from pathlib import Path

import frontier
import numpy as np
import pytest

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.matrix import QuantizedMatrix

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


def test_bytes_of_factors() -> None:
    """U [5, 2] and V [2, 64] in blocks of 34 bytes; no more factors than rows."""
    values = np.full((5, 64), 127, np.int8)
    delta = QuantizedMatrix(values, np.ones((5, 2), np.float16))
    neurons, bias = np.arange(5, dtype=np.int32), np.ones(5, np.float32)
    maps = LayerMap(0, neurons, delta, bias), LayerMap(1, neurons, None, bias)
    cartridge = Cartridge(Metadata("c"), Fingerprint("a", 2, 64, 8, "0" * 64), maps)
    assert frontier.factor_bytes(cartridge, 2) == 2 * (1 + 2) * 34
    assert frontier.factor_bytes(cartridge, 99) == 5 * (1 + 2) * 34
