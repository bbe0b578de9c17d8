"""A disk that is full in the middle of a file: the reason is told, and nothing is lost or left."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.disk.whole import write_whole
from llamacart.errors import CartridgeError
from llamacart.file.writer import write_cartridge


@contextmanager
def room_for(n_bytes: int) -> Iterator[None]:
    """Let no file grow beyond `n_bytes`, as a full disk or a quota would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("n_bytes", [0, 100, 20_000, 60_000])
def test_a_cartridge(tmp_path: Path, n_bytes: int) -> None:
    rng = np.random.default_rng(0)
    layer = LayerMap.from_dense(0, np.arange(64), rng.normal(size=(64, 1024)), np.zeros(64))
    cartridge = Cartridge(Metadata("c"), Fingerprint("llama", 2, 1024, 16, "ab" * 32), (layer,))
    path = tmp_path / "c.gguf"
    path.write_text("older")
    with room_for(n_bytes), pytest.raises(CartridgeError) as caught:
        write_cartridge(cartridge, path)
    assert caught.value.message == f"cannot write {path}: File too large"
    assert [p.name for p in tmp_path.iterdir()] == ["c.gguf"]
    assert path.read_text() == "older"
    assert write_cartridge(cartridge, path) > 60_000


def test_a_text(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("older")
    with room_for(100), pytest.raises(OSError, match="File too large"):
        write_whole(tmp_path / "t", "x" * 10_000)
    assert [p.name for p in tmp_path.iterdir()] == ["t"]
    assert (tmp_path / "t").read_text() == "older"
