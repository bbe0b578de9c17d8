"""What is read: files packed by hand, damaged, cut off, and what is no file."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.errors import (
    CartridgeError,
    CartridgeFormatError,
    NotFoundError,
)
from llamacart.file import format as fmt
from llamacart.file.reader import read_cartridge
from llamacart.file.writer import write_cartridge
from llamacart.matrix import FactoredMatrix


def test_a_file_packed_by_hand_is_read_and_is_what_the_writer_writes(tmp_path, packed):
    cartridge = packed.sample()
    path = packed.put(packed.raw_of(cartridge), tmp_path / "french.gguf")
    packed.assert_same(read_cartridge(path), cartridge)
    size = write_cartridge(cartridge, tmp_path / "written.gguf")
    assert (tmp_path / "written.gguf").read_bytes() == path.read_bytes()
    assert size == path.stat().st_size


def test_what_a_cartridge_waits_for_makes_a_file_of_version_3(tmp_path, packed):
    cartridge = replace(packed.sample(), when=("Velmora", 'Rom"é', "北京"))
    assert cartridge.content_hash != packed.sample().content_hash
    path = packed.put(packed.raw_of(cartridge), tmp_path / "facts.gguf")
    packed.assert_same(read_cartridge(path), cartridge)
    write_cartridge(cartridge, tmp_path / "written.gguf")
    assert (tmp_path / "written.gguf").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("when", [(), ("Velmora",)])
def test_factors_make_a_file_of_version_4(when, tmp_path, packed):
    cartridge = replace(packed.factored(), when=when)
    path = packed.put(packed.raw_of(cartridge), tmp_path / "thin.gguf")
    packed.assert_same(read_cartridge(path), cartridge)
    write_cartridge(cartridge, tmp_path / "written.gguf")
    assert (tmp_path / "written.gguf").read_bytes() == path.read_bytes()


def test_foreign_keys_are_ignored_and_tensors_may_come_in_any_order(tmp_path, packed):
    raw = packed.raw_of(packed.sample())
    for kind, n_bytes in fmt.VALUE_BYTES.items():
        raw.add(f"other.{kind}", kind, b"\xff" * n_bytes)
    raw.add("general.tags", 9, struct.pack("<IQ", 8, 2) + packed.text("a") + packed.text("b"))
    raw.add("other.array", 9, struct.pack("<IQ", 10, 3) + bytes(24))
    raw.add("general.alignment", 4, 32)
    raw.keys.reverse()
    raw.tensors.reverse()
    packed.assert_same(read_cartridge(packed.put(raw, tmp_path / "x.gguf")), packed.sample())


def test_limits_are_inclusive(tmp_path, packed):
    raw = packed.raw_of(packed.sample())
    raw.set("general.description", "x" * 2**20)
    raw.set("general.name", "A.-_" + "9" * 60)
    raw.set("llamacart.default_alpha", -10.0)
    raw.set("llamacart.diagnostics", '{"a": ' + "[" * 15 + "1" + "]" * 15 + "}")
    raw.add("k" * 128, 9, struct.pack("<IQ", 8, 4096) + packed.text("") * 4096)
    raw.set("llamacart.base.n_layer", 1024)
    for number in range(64 - len(raw.keys)):
        raw.add(f"other.{number}", 0, b"\0")
    assert read_cartridge(packed.put(raw, tmp_path / "x.gguf")).metadata.default_alpha == -10


@pytest.mark.parametrize("sample", ["sample", "factored"])
def test_truncation_at_every_byte(sample, tmp_path, packed):
    path = packed.put(packed.raw_of(getattr(packed, sample)()), tmp_path / "x.gguf")
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(CartridgeFormatError) as caught:
            read_cartridge(path)
        assert caught.value.rule == "truncated"


DAMAGE = [lambda old, bit=bit: bytes([old ^ 1 << bit]) for bit in range(8)]
DAMAGE += [lambda old, new=new: new for new in (b"\xff" * 8, b"\xff" * 7 + b"\x7f", bytes(8))]


@pytest.mark.parametrize(
    ("damage", "sample"),
    [(damage, "sample") for damage in DAMAGE] + [(damage, "factored") for damage in DAMAGE[::5]],
)
def test_damage_at_every_byte(damage, sample, tmp_path, packed):
    original = getattr(packed, sample)()
    good = packed.raw_of(original).pack()
    path = tmp_path / "x.gguf"
    path.write_bytes(good)
    rules = set()
    with path.open("r+b", buffering=0) as file:
        for position in range(len(good)):
            data = damage(good[position])[: len(good) - position]
            file.seek(position)
            file.write(data)
            try:
                assert read_cartridge(path).content_hash == original.content_hash
            except CartridgeFormatError as error:
                rules.add(error.rule)
            file.seek(position)
            file.write(good[position : position + len(data)])
    assert path.read_bytes() == good
    assert "content-hash" in rules
    assert rules <= set(packed.RULES)


@pytest.mark.parametrize("sample", ["sample", "factored"])
def test_arrays_outlive_the_file_and_cannot_be_changed(sample, tmp_path, packed):
    path = packed.put(packed.raw_of(getattr(packed, sample)()), tmp_path / "x.gguf")
    cartridge = read_cartridge(path)
    os.truncate(path, 0)
    path.unlink()
    packed.assert_same(cartridge, getattr(packed, sample)())
    for m in cartridge.layers:
        arrays, delta = [m.neurons, m.bias], m.delta
        if isinstance(delta, FactoredMatrix):
            arrays.append(delta.left)
            delta = delta.right
        arrays += [delta.values, delta.scales] if delta else []
        for array in arrays:
            assert array.base is None
            assert array.flags.c_contiguous
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0


def test_what_is_no_readable_file(tmp_path):
    with pytest.raises(NotFoundError, match=r"missing\.gguf"):
        read_cartridge(tmp_path / "missing.gguf")
    file, loop, pipe = tmp_path / "file", tmp_path / "loop", tmp_path / "pipe"
    file.write_bytes(b"")
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    for path in (tmp_path, file / "x.gguf", loop, pipe, Path("/dev/zero"), tmp_path / "a\0b"):
        with pytest.raises(CartridgeError, match=re.escape(str(path).split("\0")[0])) as caught:
            read_cartridge(path)
        assert not isinstance(caught.value, CartridgeFormatError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path, packed):
    path = packed.put(packed.raw_of(packed.sample()), tmp_path / "x.gguf")
    path.chmod(0)
    with pytest.raises(CartridgeError, match=r"x\.gguf: Permission denied"):
        read_cartridge(path)


def test_a_path_may_be_text(tmp_path, monkeypatch):
    """As a notebook writes it."""
    monkeypatch.chdir(tmp_path)
    layer = LayerMap.from_dense(0, np.array([1]), np.ones((1, 32)), np.zeros(1))
    made = Cartridge(Metadata("small"), Fingerprint("llama", 2, 32, 16, "ab" * 32, "t"), (layer,))
    write_cartridge(made, "small.gguf")
    assert read_cartridge("small.gguf").content_hash == made.content_hash
