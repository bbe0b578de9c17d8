"""What is written is read back the same, a broken cartridge is not written, a file whole or not."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.errors import (
    CartridgeError,
    CartridgeFormatError,
)
from llamacart.file import format as fmt
from llamacart.file.reader import read_cartridge
from llamacart.file.writer import write_cartridge
from llamacart.matrix import FactoredMatrix, QuantizedMatrix

NAN, INFINITY = float("nan"), float("inf")
printable = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
any_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
json_objects = st.dictionaries(
    any_text,
    st.recursive(
        scalars | any_text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)
hashes = st.text("0123456789abcdef", min_size=8, max_size=128)


@st.composite
def layer_maps(draw: st.DrawFn, layer: int, width: int) -> LayerMap:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_active = draw(st.integers(1, 6) | st.just(width))
    scales = rng.integers(0, 2**16, (n_active, width // 32), np.uint16).view(np.float16)
    scales[~np.isfinite(scales)] = -0.0
    bias = rng.integers(0, 2**32, n_active, np.uint32).view(np.float32)
    bias[~np.isfinite(bias)] = np.finfo(np.float32).max
    values = rng.integers(-127, 128, (n_active, width), np.int8)
    whole = QuantizedMatrix(values, scales)
    rank = draw(st.integers(1, n_active))
    left = rng.integers(0, 2**16, (n_active, rank), np.uint16).view(np.float16)
    left[~np.isfinite(left)] = -0.0
    factors = [FactoredMatrix(left, QuantizedMatrix(values[:rank], scales[:rank]))]
    return LayerMap(
        layer=layer,
        neurons=np.sort(rng.choice(width, n_active, replace=False)).astype(np.int32),
        delta=draw(st.sampled_from([None, whole, *factors])),
        bias=bias,
    )


@st.composite
def cartridges(draw: st.DrawFn) -> Cartridge:
    n_layer = draw(st.integers(1, 1024))
    width = 32 * draw(st.integers(1, 8))
    layers = draw(st.sets(st.integers(0, n_layer - 1), min_size=1, max_size=4))
    return Cartridge(
        metadata=Metadata(
            name=draw(st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", fullmatch=True)),
            description=draw(printable),
            default_alpha=draw(st.floats(-10, 10, width=32)),
            solver=draw(printable),
            settings=draw(json_objects),
            dataset_hash=draw(hashes | st.just("")),
            diagnostics=draw(json_objects),
            created=draw(printable),
            tool_version=draw(printable),
        ),
        fingerprint=Fingerprint(
            architecture=draw(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)),
            n_layer=n_layer,
            n_ff=width,
            n_embd=draw(st.integers(1, 2**20)),
            weights_hash=draw(hashes),
            name=draw(printable),
        ),
        layers=tuple(draw(layer_maps(layer, width)) for layer in sorted(layers)),
    )


def to_layer(**changes):
    """A change of the first layer, a full map."""

    def change(cartridge):
        first, *others = cartridge.layers
        return replace(cartridge, layers=(replace(first, **changes), *others))

    return change


def to_metadata(**changes):
    return lambda c: replace(c, metadata=replace(c.metadata, **changes))


def to_base(**changes):
    return lambda c: replace(c, fingerprint=replace(c.fingerprint, **changes))


def to_delta(values=None, scales=None):
    def change(cartridge):
        delta = cartridge.layers[0].delta
        matrix = QuantizedMatrix(
            delta.values if values is None else values, delta.scales if scales is None else scales
        )
        return to_layer(delta=matrix)(cartridge)

    return change


@settings(max_examples=60, deadline=None, database=None)
@given(cartridge=cartridges())
def test_round_trip(cartridge, packed):
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "first.gguf"), Path(folder, "second.gguf")
        assert write_cartridge(cartridge, first) == first.stat().st_size
        back = read_cartridge(first)
        write_cartridge(back, second)
        assert second.read_bytes() == first.read_bytes()
    alpha = cartridge.metadata.default_alpha
    assert np.float32(back.metadata.default_alpha) == np.float32(alpha)
    packed.assert_same(
        replace(back, metadata=replace(back.metadata, default_alpha=alpha)), cartridge
    )


def test_a_decimal_alpha_comes_back_as_written(tmp_path, packed):
    for alpha in (0.8, 1, -0.1, 10, 1e-3, 2.5):
        cartridge = to_metadata(default_alpha=alpha)(packed.sample())
        write_cartridge(cartridge, tmp_path / "x.gguf")
        assert read_cartridge(tmp_path / "x.gguf").metadata.default_alpha == alpha


def test_other_tools_read_what_the_writer_writes(tmp_path, packed):
    cartridge = packed.sample()
    write_cartridge(cartridge, tmp_path / "x.gguf")
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert reader.get_field("general.name").contents() == "french"
    assert reader.get_field("llamacart.base.n_ff").contents() == packed.WIDTH
    tensors = {t.name: t for t in reader.tensors}
    full, shift = cartridge.layers
    assert full.delta is not None
    dense = gguf.quants.dequantize(tensors["blk.1.delta"].data, tensors["blk.1.delta"].tensor_type)
    np.testing.assert_array_equal(dense, full.delta.dequantize())
    np.testing.assert_array_equal(tensors["blk.1.neurons"].data, full.neurons)
    np.testing.assert_array_equal(tensors["blk.3.bias"].data, shift.bias)
    assert "blk.3.delta" not in tensors


UNWRITABLE = [
    ("layers", lambda c: replace(c, layers=())),
    ("layers", lambda c: replace(c, layers=c.layers[::-1])),
    ("layers", lambda c: replace(c, layers=c.layers[:1] * 2)),
    ("layer-index", to_base(n_layer=3)),
    ("tensor-name", to_layer(layer=-1)),
    ("tensor-dtype", to_layer(neurons=np.array([0, 31]))),
    ("tensor-dtype", to_layer(bias=np.zeros(2))),
    ("tensor-dtype", to_delta(scales=np.zeros((2, 1), np.float32))),
    ("tensor-shape", to_layer(neurons=np.zeros(0, np.int32), bias=np.zeros(0, np.float32))),
    ("tensor-shape", to_layer(bias=np.zeros(3, np.float32))),
    ("tensor-shape", to_layer(bias=np.float32(0))),
    ("tensor-shape", to_delta(values=np.zeros((2, 64), np.int8))),
    ("tensor-shape", to_delta(values=np.zeros(64, np.int8))),
    ("tensor-shape", to_delta(scales=np.zeros((2, 2), np.float16))),
    ("tensor-shape", to_base(n_ff=64)),
    ("index-range", to_layer(neurons=np.array([0, 32], np.int32))),
    ("index-order", to_layer(neurons=np.array([3, 3], np.int32))),
    ("finite", to_layer(bias=np.array([0, NAN], np.float32))),
    ("finite", to_delta(scales=np.array([[0], [INFINITY]], np.float16))),
    ("q8-range", to_delta(values=np.full((2, 32), -128, np.int8))),
    ("site", lambda c: replace(c, site="elsewhere")),
    ("base-shape", to_base(n_ff=48)),
    ("architecture", to_base(architecture="")),
    ("hash-hex", to_base(weights_hash="?")),
    ("name", to_metadata(name="a b")),
    ("default-alpha", to_metadata(default_alpha=NAN)),
    ("text", to_metadata(description="\a")),
    ("utf-8", to_metadata(description="\ud800")),
    ("string-length", to_metadata(solver="é" * 2**20)),
    ("string-length", to_metadata(settings={"a": "x" * 2**20})),
    ("json", to_metadata(settings={"a": NAN})),
    ("json", to_metadata(settings={"a": {1, 2}})),
    ("json", to_metadata(settings={"1": 1, 1: 2})),
    ("json", to_metadata(diagnostics=[1])),
    ("when", lambda c: replace(c, when=("a\n",))),
    ("when", lambda c: replace(c, when=("a", "a"))),
    ("when", lambda c: replace(c, when=tuple(map(str, range(4097))))),
    ("utf-8", lambda c: replace(c, when=("\ud800",))),
]


@pytest.mark.parametrize(("rule", "change"), UNWRITABLE)
def test_a_broken_cartridge_is_not_written(rule, change, tmp_path, packed):
    with pytest.raises(CartridgeFormatError) as caught:
        write_cartridge(change(packed.sample()), tmp_path / "x.gguf")
    assert caught.value.rule == rule
    assert list(tmp_path.iterdir()) == []


def to_factors(left=None, right=None):
    """The sample of factors, one of them another."""

    def change(cartridge):
        delta = cartridge.layers[0].delta
        other = FactoredMatrix(
            delta.left if left is None else left, delta.right if right is None else right
        )
        return to_layer(delta=other)(cartridge)

    return change


def right(values, scales=None):
    scales = np.ones((len(values), 1), np.float16) if scales is None else scales
    return QuantizedMatrix(values, scales)


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("tensor-dtype", to_factors(left=np.ones((3, 2), np.float32))),
        ("tensor-shape", to_factors(left=np.ones((2, 2), np.float16))),
        ("tensor-shape", to_factors(left=np.ones((3, 0), np.float16))),
        ("tensor-shape", to_factors(left=np.ones((3, 1), np.float16))),
        ("tensor-shape", to_factors(left=np.ones(3, np.float16))),
        ("tensor-shape", to_factors(right=right(np.zeros((3, 32), np.int8)))),
        ("tensor-shape", to_factors(right=right(np.zeros((2, 64), np.int8)))),
        (
            "tensor-shape",  # a rank above the number of neurons
            to_factors(np.ones((3, 4), np.float16), right(np.zeros((4, 32), np.int8))),
        ),
        ("finite", to_factors(left=np.full((3, 2), INFINITY, np.float16))),
        (
            "finite",
            to_factors(right=right(np.zeros((2, 32), np.int8), np.full((2, 1), NAN, np.float16))),
        ),
        ("q8-range", to_factors(right=right(np.full((2, 32), -128, np.int8)))),
    ],
)
def test_broken_factors_are_not_written(rule, change, tmp_path, packed):
    with pytest.raises(CartridgeFormatError) as caught:
        write_cartridge(change(packed.factored()), tmp_path / "x.gguf")
    assert caught.value.rule == rule
    assert list(tmp_path.iterdir()) == []


def test_other_tools_read_factors(tmp_path, packed):
    cartridge = packed.factored()
    write_cartridge(cartridge, tmp_path / "x.gguf")
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    left, right = (tensors[f"blk.1.{part}"] for part in ("left", "right"))
    dense = left.data.astype(np.float32) @ gguf.quants.dequantize(right.data, right.tensor_type)
    np.testing.assert_allclose(dense, cartridge.layers[0].delta.dequantize(), rtol=1e-6)
    assert "blk.1.delta" not in tensors


def test_a_hash_computed_before_a_change_is_not_written(tmp_path, packed):
    cartridge = packed.sample()
    before = cartridge.content_hash
    cartridge.layers[0].bias[0] += 1
    write_cartridge(cartridge, tmp_path / "x.gguf")
    assert read_cartridge(tmp_path / "x.gguf").content_hash != before


def test_arrays_that_are_not_contiguous_are_written(tmp_path, packed):
    first, second = packed.sample().layers
    wide = QuantizedMatrix(
        np.asfortranarray(first.delta.values), np.repeat(first.delta.scales, 2, axis=1)[:, ::2]
    )
    strided = replace(first, delta=wide, neurons=np.repeat(first.neurons, 2)[::2])
    write_cartridge(replace(packed.sample(), layers=(strided, second)), tmp_path / "x.gguf")
    packed.assert_same(read_cartridge(tmp_path / "x.gguf"), packed.sample())


def test_a_file_in_use_is_replaced_whole(tmp_path, packed):
    path = tmp_path / "x.gguf"
    write_cartridge(packed.sample(), path)
    with path.open("rb") as held:
        write_cartridge(to_metadata(name="other")(packed.sample()), path)
        assert held.read() == packed.raw_of(packed.sample()).pack()
    assert read_cartridge(path).name == "other"
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def fail_tensors(monkeypatch):
    def write(self):
        raise RuntimeError("stopped")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", write)
    return RuntimeError


def fail_sync(monkeypatch):
    def sync(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", sync)
    return CartridgeError


def fail_replace(monkeypatch):
    def rename(self, target):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", rename)
    return CartridgeError


def fail_size(monkeypatch):
    monkeypatch.setattr(fmt, "MAX_FILE_BYTES", 1024)
    return CartridgeFormatError


@pytest.mark.parametrize("fail", [fail_tensors, fail_sync, fail_replace, fail_size])
def test_a_failure_leaves_the_old_file_alone(fail, tmp_path, monkeypatch, packed):
    path = tmp_path / "x.gguf"
    write_cartridge(packed.sample(), path)
    old = path.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(fail(patch)):
        write_cartridge(to_metadata(name="other")(packed.sample()), path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_alone(tmp_path, packed):
    resource = pytest.importorskip("resource")
    path = tmp_path / "x.gguf"
    write_cartridge(packed.sample(), path)
    old = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 100, 1000, len(old) - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(CartridgeError, match="cannot write"):
                write_cartridge(to_metadata(name="other")(packed.sample()), path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == old
        assert list(tmp_path.iterdir()) == [path]


def test_where_nothing_can_be_written(tmp_path, packed):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "missing" / "x.gguf", tmp_path / "file" / "x.gguf"):
        with pytest.raises(CartridgeError, match=f"cannot write {re.escape(str(path))}"):
            write_cartridge(packed.sample(), path)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
