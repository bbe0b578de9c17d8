from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from peers_gguf import read_matrices, write_edited

from llamacart.llama.model import Model

NAME = "blk.1.ffn_down.weight"


def test_only_what_is_changed_differs(tiny_path: Callable[..., Path], tmp_path: Path) -> None:
    source, target = tiny_path(), tmp_path / "edited.gguf"
    (old,) = read_matrices(source, [NAME]).values()
    write_edited(source, {NAME: old + 1}, target)
    before, after = (gguf.GGUFReader(path) for path in (source, target))
    assert list(before.fields) == list(after.fields)
    assert [tensor.name for tensor in before.tensors] == [tensor.name for tensor in after.tensors]
    for one, other in zip(before.tensors, after.tensors, strict=True):
        if one.name == NAME:
            assert other.tensor_type == gguf.GGMLQuantizationType.F32
            np.testing.assert_array_equal(other.data, old + 1)
        else:
            assert (one.tensor_type, one.data.tobytes()) == (
                other.tensor_type,
                other.data.tobytes(),
            )
    with Model(str(source)) as plain, Model(str(target)) as edited:
        assert plain.tokenize("a b") == edited.tokenize("a b")


@pytest.mark.parametrize(
    ("name", "shape", "fault"),
    [("blk.9.ffn_down.weight", (2, 2), "no tensor"), (NAME, (2, 2), "another shape")],
)
def test_what_the_model_has_not_is_refused(
    tiny_path: Callable[..., Path], tmp_path: Path, name: str, shape: tuple[int, int], fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        write_edited(tiny_path(), {name: np.zeros(shape, np.float32)}, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()
