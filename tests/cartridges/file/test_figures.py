"""Other figures in a cartridge file: all else keeps its bytes, and the file is whole always."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cartridges.file.conftest import sample

from llamacart.errors import CartridgeError, CartridgeFormatError, NotFoundError
from llamacart.file import figures
from llamacart.file.figures import write_diagnostics
from llamacart.file.reader import read_cartridge
from llamacart.file.writer import write_cartridge

FIGURES = {"evaluation": {"α": 0.8, "points": [{"alpha": 1.0}]}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "french.gguf"
    write_cartridge(sample(), path)
    return path


@pytest.mark.parametrize("n", range(0, 40, 7))
def test_the_file_is_as_if_it_had_been_written_with_them(
    path: Path, tmp_path: Path, n: int
) -> None:
    diagnostics = {**FIGURES, "filler": "x" * n}  # the padding has any length
    write_diagnostics(path, sample(), diagnostics)
    metadata = replace(sample().metadata, diagnostics=diagnostics)
    write_cartridge(replace(sample(), metadata=metadata), tmp_path / "other.gguf")
    assert path.read_bytes() == (tmp_path / "other.gguf").read_bytes()
    write_diagnostics(path, sample(), sample().metadata.diagnostics)
    write_cartridge(sample(), tmp_path / "other.gguf")
    assert path.read_bytes() == (tmp_path / "other.gguf").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["french.gguf", "other.gguf"]


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def test_keys_that_nobody_knows_stay(path: Path) -> None:
    raw = path.read_bytes()
    n_keys = struct.unpack("<Q", raw[16:24])[0]
    array = string(b"general.bytes") + struct.pack("<IIQ", 9, 0, 3) + b"abc"
    filler = string(b"general.author") + struct.pack("<I", 8)
    filler += string(b"x" * (-len(array + filler + string(b"")) % 32))  # the data are aligned
    path.write_bytes(raw[:16] + struct.pack("<Q", n_keys + 2) + array + filler + raw[24:])
    write_diagnostics(path, read_cartridge(path), FIGURES)
    assert read_cartridge(path).metadata.diagnostics == FIGURES
    assert path.read_bytes()[24:].startswith(array + filler)


def test_a_file_that_holds_another_cartridge_by_now_is_left(path: Path) -> None:
    other = replace(sample(), layers=sample().layers[:1])
    write_cartridge(other, path)
    before = path.read_bytes()
    with pytest.raises(CartridgeError, match="has changed since it was read"):
        write_diagnostics(path, sample(), FIGURES)
    assert path.read_bytes() == before
    path.unlink()
    with pytest.raises(NotFoundError):
        write_diagnostics(path, sample(), FIGURES)
    assert not path.exists()


@pytest.mark.parametrize("diagnostics", [{"x": float("nan")}, {"x": "y" * (1 << 20)}, {"x": {1}}])
def test_what_no_file_may_hold_is_refused(path: Path, diagnostics: dict[str, Any]) -> None:
    before = path.read_bytes()
    with pytest.raises(CartridgeFormatError):
        write_diagnostics(path, sample(), diagnostics)
    assert path.read_bytes() == before


def test_a_failure_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures.os, "fsync", full)
    with pytest.raises(CartridgeError, match=r"cannot write .*: No space left"):
        write_diagnostics(path, sample(), FIGURES)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_link_stays_a_link_and_the_mode_is_kept(path: Path, tmp_path: Path) -> None:
    path.chmod(0o640)
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    write_diagnostics(link, sample(), FIGURES)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    text = json.dumps(read_cartridge(path).metadata.diagnostics, ensure_ascii=False)
    assert text == json.dumps(FIGURES, ensure_ascii=False)
