"""The files that the reader's fuzzing starts from."""

from __future__ import annotations

from pathlib import Path

import fuzz

from llamacart.file.reader import read_cartridge
from llamacart.file.storage import narrowest
from llamacart.matrix import FactoredMatrix, QuantizedMatrix


def test_there_is_a_file_for_each_way_to_hold_a_map(tmp_path: Path) -> None:
    kinds = set()
    for number, data in enumerate(fuzz.sample_files(tmp_path)):
        path = tmp_path / f"copy-{number}.gguf"
        path.write_bytes(data)
        for layer_map in read_cartridge(path).layers:
            delta = layer_map.delta
            whole = isinstance(delta, QuantizedMatrix)
            kinds.add(narrowest(delta).name if whole else type(delta))
    assert kinds == {"q4_0", "q5_0", "q8_0", FactoredMatrix, type(None)}
