"""A model's weights are read from its file as what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from llamacart.errors import ModelError, UnsupportedModelError
from llamacart.llama.feed_forward import feed_forward, reader_norms
from llamacart.llama.model import Model
from llamacart.llama.tensors import Tensors


def write(path: Path, kind: gguf.GGMLQuantizationType, **tensors: np.ndarray) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for name, values in tensors.items():
        data = gguf.quantize(values, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("kind", "error"), [("F32", 0), ("F16", 1e-3), ("BF16", 1e-2), ("Q8_0", 1e-2), ("Q4_0", 0.1)]
)
def test_tensors_are_dequantised(tmp_path: Path, kind: str, error: float) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(5, 64)), rng.normal(size=(3, 32))
    path = write(
        tmp_path / "m.gguf",
        gguf.GGMLQuantizationType[kind],
        first=first.astype(np.float32),
        second=second.astype(np.float32),
    )
    tensors = Tensors(path)
    assert "first" in tensors
    assert "third" not in tensors
    for name, exact in (("first", first), ("second", second)):
        found = tensors.read(name, exact.shape)
        assert found.dtype == np.float32
        assert np.linalg.norm(found - exact.astype(np.float32)) <= error * np.linalg.norm(exact)
    some = tensors.read("first", (5, 64), rows=np.array([3, 1]))
    np.testing.assert_array_equal(some, tensors.read("first", (5, 64))[[3, 1]])


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.F32
    path = write(tmp_path / "m.gguf", kind, first=np.ones((2, 4), np.float32))
    with pytest.raises(UnsupportedModelError, match="has no tensor 'second'"):
        Tensors(path).read("second", (2, 4))
    with pytest.raises(UnsupportedModelError, match=r"'first' .* has shape \(1, 1, 2, 4\)"):
        Tensors(path).read("first", (4, 2))
    path.unlink()
    with pytest.raises(UnsupportedModelError, match="has no tensor"):
        Tensors(path).read("first", (2, 4))
    path.write_bytes(b"no model")
    with pytest.raises(ModelError, match="can no longer be read"):
        Tensors(path).read("first", (2, 4))


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_feed_forward_ends_in_what_the_file_holds(
    tiny_path: Callable[..., Path], architecture: str
) -> None:
    with Model(str(tiny_path(architecture=architecture))) as model:
        end = feed_forward(model, 1)
        assert end.down.shape == (model.n_embd, model.n_ff)
        assert (end.norm is not None) == (architecture == "gemma3")
        assert [len(reader_norms(model, layer)) for layer in range(4)] == [2, 2, 2, 1]
