"""A file that is no model is named for what it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.errors import ModelError
from llamacart.file.writer import write_cartridge
from llamacart.llama.model import Model
from llamacart.llama.model_file import what_it_is


def write_gguf(
    path: Path, architecture: str, fields: dict[str, str | int], *, tensors: int = 1
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in fields.items():
        if isinstance(value, int):
            writer.add_uint16(key, value)
        else:
            writer.add_string(key, value)
    for i in range(tensors):
        writer.add_tensor(f"blk.{i}.x", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("architecture", "fields", "tensors", "expected"),
    [
        ("llama", {"general.type": "adapter", "adapter.type": "lora"}, 1, "is a LoRA adapter"),
        ("clip", {"general.type": "mmproj"}, 1, "is a projector for images or sound (mmproj)"),
        ("clip", {}, 1, "is a projector for images or sound (mmproj)"),
        ("llama", {"general.type": "imatrix"}, 1, "is an importance matrix"),
        ("controlvector", {}, 1, "is a control vector"),
        ("llama", {}, 0, "is a vocabulary without weights"),
        ("llama", {"split.no": 1, "split.count": 3}, 1, "is part 2 of 3 of a split model; give"),
    ],
)
def test_gguf_files_of_other_kinds(
    tmp_path: Path, architecture: str, fields: dict[str, str | int], tensors: int, expected: str
) -> None:
    path = write_gguf(tmp_path / "x.gguf", architecture, fields, tensors=tensors)
    with pytest.raises(ModelError) as caught:
        Model(str(path))
    assert f"model {str(path)!r} {expected}" in caught.value.message
    assert caught.value.param == "model"


def test_the_first_part_without_the_others(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-00002.GGUF"
    write_gguf(path, "llama", {"split.no": 0, "split.count": 2})
    with pytest.raises(ModelError, match=r"of which 'm-00002-of-00002.GGUF' is missing"):
        Model(str(path))


def test_a_cartridge(tiny_model: Model, tmp_path: Path) -> None:
    weight = np.zeros((1, tiny_model.n_ff), np.float32)
    layer_map = LayerMap.from_dense(0, np.arange(1), weight, np.ones(1))
    path = tmp_path / "mine.gguf"
    write_cartridge(Cartridge(Metadata("mine"), tiny_model.fingerprint, (layer_map,)), path)
    with pytest.raises(ModelError, match="is a cartridge; give it by --cartridges"):
        Model(str(path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"PK\x03\x04" + bytes(100), "a PyTorch or zip file"),
        ((2).to_bytes(8, "little") + b"{}" + bytes(90), "a safetensors file"),
        (b"GGUF but not really", r"llama\.cpp cannot load model .*up to version 3"),
        (b"hello", "no GGUF file"),
    ],
)
def test_files_of_other_formats(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=expected):
        Model(str(path))


def test_keys_of_other_types_than_expected(tmp_path: Path) -> None:
    """ggml would end the process if it were asked for them as text."""
    path = write_gguf(tmp_path / "x.gguf", "llama", {"general.type": 7, "split.count": "three"})
    assert what_it_is(path) is None
    with pytest.raises(ModelError, match=r"llama\.cpp cannot load model"):
        Model(str(path))


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    assert what_it_is(tmp_path / "absent") is None


def test_upper_case_names(tiny_path: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "X.GGUF"
    shutil.copy(tiny_path(), path)
    with Model(str(path)) as model:
        assert model.n_layer == 3
