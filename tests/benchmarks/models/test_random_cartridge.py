"""A random cartridge moves as many neurons as were asked for, and its loading is timed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from random_cartridge import loading, random_cartridge

from llamacart.file.writer import write_cartridge

if TYPE_CHECKING:
    from pathlib import Path

    from llamacart.llama.model import Model


def test_every_layer_moves_so_many_neurons(tiny_model: Model, tmp_path: Path) -> None:
    one, other = (random_cartridge(tiny_model, seed, neurons=7, spread=0.1) for seed in (0, 1))
    assert [(m.layer, len(m.neurons)) for m in one.layers] == [(0, 7), (1, 7), (2, 7)]
    assert one.content_hash != other.content_hash
    write_cartridge(one, tmp_path / "random.gguf")
    assert all(seconds > 0 for seconds in loading(tiny_model, tmp_path / "random.gguf", 3))
