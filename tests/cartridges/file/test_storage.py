"""Blocks of 8, 5 and 4 bits: GGML's bytes, exact expansion, small errors."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.file.reader import read_cartridge
from llamacart.file.storage import STORAGES, narrowest, pack, quantize, unpack
from llamacart.file.writer import write_cartridge
from llamacart.matrix import QuantizedMatrix

NAMES = sorted(STORAGES)
matrices = st.tuples(st.integers(0, 999), st.integers(1, 5), st.integers(1, 4))


def random_values(seed: int, n_rows: int, n_blocks: int, name: str) -> QuantizedMatrix:
    storage, rng = STORAGES[name], np.random.default_rng(seed)
    values = rng.integers(storage.low, storage.high + 1, (n_rows, 32 * n_blocks)).astype(np.int8)
    values[0, :2] = storage.low, storage.high
    scales = rng.integers(0, 2**16, (n_rows, n_blocks), np.uint16).view(np.float16)
    scales[~np.isfinite(scales)] = -0.0
    return QuantizedMatrix(values, scales)


def cartridge(deltas: list[QuantizedMatrix | None]) -> Cartridge:
    width = next(d.values.shape[1] for d in deltas if d is not None)
    layers = tuple(
        LayerMap(
            i,
            np.arange(1 if d is None else len(d.values), dtype=np.int32),
            d,
            np.zeros(1 if d is None else len(d.values), np.float32),
        )
        for i, d in enumerate(deltas)
    )
    base = Fingerprint("gemma3", len(deltas), width, 16, "deadbeef")
    return Cartridge(Metadata("t", settings={"δ": 0.1}), base, layers)


@settings(deadline=None)
@given(matrix=matrices, name=st.sampled_from(NAMES))
def test_bytes_are_those_that_gguf_tools_read(matrix, name: str) -> None:
    made = random_values(*matrix, name)
    storage = narrowest(made)
    assert storage.name == name
    data = pack(made, storage)
    kind = gguf.GGMLQuantizationType(storage.ggml_number)
    assert kind.name == storage.ggml_name
    assert gguf.GGML_QUANT_SIZES[kind] == (32, storage.block.itemsize)
    np.testing.assert_array_equal(gguf.quants.dequantize(data, kind), made.dequantize())
    back = unpack(data.view(storage.block), storage, made.values.shape)  # type: ignore[arg-type]
    assert (back.values.dtype, back.scales.dtype) == (np.int8, np.float16)
    np.testing.assert_array_equal(back.values, made.values)
    np.testing.assert_array_equal(back.scales.view("u2"), made.scales.view("u2"))


def test_two_blocks_by_hand() -> None:
    values = np.zeros((1, 32), np.int8)
    values[0, 0], values[0, 16], values[0, 1] = -8, 7, 1
    four = pack(QuantizedMatrix(values, np.ones((1, 1), np.float16)), STORAGES["q4_0"]).tobytes()
    assert four == b"\x00\x3c" + b"\xf0" + b"\x89" + b"\x88" * 14
    values[0, 0], values[0, 31] = -16, 15
    five = pack(QuantizedMatrix(values, np.ones((1, 1), np.float16)), STORAGES["q5_0"]).tobytes()
    # Raised by 16: 0 at 0, 17 at 1, 23 at 16, 31 at 31, else 16; the fifth bit misses at 0 only.
    assert five == b"\x00\x3c" + b"\xfe\xff\xff\xff" + b"\x70" + b"\x01" + b"\x00" * 13 + b"\xf0"


@settings(deadline=None)
@given(matrix=matrices, names=st.lists(st.sampled_from([*NAMES, None]), min_size=1, max_size=4))
def test_round_trip_of_mixed_layers(tmp_path_factory, matrix, names: list[str | None]) -> None:
    names.append("q4_0")
    seed, n_rows, n_blocks = matrix
    made = cartridge(
        [None if n is None else random_values(seed, n_rows, n_blocks, n) for n in names]
    )
    path = tmp_path_factory.mktemp("storage") / "t.gguf"
    write_cartridge(made, path)
    back = read_cartridge(path)
    assert back.content_hash == made.content_hash
    reader = gguf.GGUFReader(path)
    assert reader.get_field("llamacart.format_version").contents() == 2
    kinds = {t.name: t.tensor_type.name.lower() for t in reader.tensors if "delta" in t.name}
    assert kinds == {f"blk.{i}.delta": name for i, name in enumerate(names) if name}
    for m in back.layers:
        if m.delta is not None:
            assert m.delta.values.flags.c_contiguous
            assert not m.delta.values.flags.writeable


def test_files_without_narrow_blocks_stay_version_1(tmp_path: Path) -> None:
    write_cartridge(cartridge([random_values(0, 2, 1, "q8_0")]), tmp_path / "t.gguf")
    assert (
        gguf.GGUFReader(tmp_path / "t.gguf").get_field("llamacart.format_version").contents() == 1
    )


@settings(deadline=None)
@given(seed=st.integers(0, 999), size=st.floats(1e-4, 1e4), name=st.sampled_from(NAMES))
def test_rounding_is_as_good_as_ggml(seed: int, size: float, name: str) -> None:
    dense = (size * np.random.default_rng(seed).normal(size=(4, 64))).astype(np.float32)
    storage = STORAGES[name]
    kind = gguf.GGMLQuantizationType(storage.ggml_number)
    theirs = gguf.quants.dequantize(gguf.quants.quantize(dense, kind), kind)
    mine = quantize(dense, storage).dequantize()
    assert np.linalg.norm(mine - dense) <= 1.001 * np.linalg.norm(theirs - dense)


@pytest.mark.parametrize("name", ["q4_0", "q5_0"])
def test_what_cannot_be_rounded(name: str) -> None:
    with pytest.raises(ValueError, match="width 40"):
        quantize(np.ones((2, 40)), STORAGES[name])
    for value in (np.nan, np.inf, 1e9):
        with pytest.raises(ValueError, match="not finite or too large"):
            quantize(np.full((2, 32), value), STORAGES[name])
    nothing = quantize(np.full((1, 32), 1e-12), STORAGES[name])
    assert not nothing.values.any()
    with pytest.raises(ValueError, match="-128"):
        narrowest(QuantizedMatrix(np.full((1, 32), -128, np.int8), np.ones((1, 1), np.float16)))
