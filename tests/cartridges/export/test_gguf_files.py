from __future__ import annotations

import gguf
import numpy as np
import pytest

from llamacart.errors import InputError
from llamacart.export.adapter import Adapter, LowRank
from llamacart.export.gguf_files import write_control_vector, write_lora

RNG = np.random.default_rng(0)


def adapter_of(model, *ranks: int, size: float = 1.0) -> Adapter:
    layers = [
        LowRank(
            layer,
            size * RNG.normal(size=(rank, model.n_ff)).astype(np.float32),
            RNG.normal(size=(model.n_embd, rank)).astype(np.float32),
        )
        for layer, rank in enumerate(ranks)
    ]
    return Adapter("style", "ab" * 32, 0.8, model.fingerprint, tuple(layers))


@pytest.mark.parametrize(("kind", "tolerance"), [("f32", 0), ("f16", 2e-3), ("q8_0", 2e-2)])
def test_a_lora_holds_the_matrices(tiny_model, tmp_path, kind, tolerance) -> None:
    adapter, target = adapter_of(tiny_model, 4, 7), tmp_path / "lora.gguf"
    assert write_lora(adapter, target, kind) == target.stat().st_size
    reader = gguf.GGUFReader(target)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.type"] == "adapter"
    assert fields["general.architecture"] == "llama"
    assert fields["general.description"].startswith("cartridge style (abababababab) at alpha 0.8")
    assert fields["adapter.type"] == "lora"
    assert fields["adapter.lora.alpha"] == 0.0  # ranks differ: the scale is the request's
    names = [t.name for t in reader.tensors]
    assert names == [f"blk.{n}.ffn_down.weight.lora_{part}" for n in (0, 1) for part in "ab"]
    found = [gguf.dequantize(t.data, t.tensor_type) for t in reader.tensors]
    expected = [matrix for layer in adapter.layers for matrix in (layer.a, layer.b)]
    for own, matrix in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, matrix, atol=tolerance * np.abs(matrix).max())


def test_one_rank_is_named_as_alpha(tiny_model, tmp_path) -> None:
    write_lora(adapter_of(tiny_model, 4, 4), tmp_path / "lora.gguf")
    field = gguf.GGUFReader(tmp_path / "lora.gguf").get_field("adapter.lora.alpha")
    assert field is not None
    assert field.contents() == 4.0


def test_what_does_not_fit_the_type_is_refused(tiny_model, tmp_path) -> None:
    adapter = adapter_of(tiny_model, 4, size=1e6)
    with pytest.raises(InputError, match="does not fit 16 bits; --type f32"):
        write_lora(adapter, tmp_path / "lora.gguf")
    assert list(tmp_path.iterdir()) == []
    write_lora(adapter, tmp_path / "lora.gguf", "f32")


def test_a_control_vector(tmp_path) -> None:
    directions = np.zeros((4, 64), np.float32)
    directions[2] = 3.0
    target = tmp_path / "cvec.gguf"
    assert write_control_vector(directions, "llama", target) == target.stat().st_size
    reader = gguf.GGUFReader(target)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama"
    assert fields["controlvector.layer_count"] == 4
    (tensor,) = reader.tensors
    assert tensor.name == "direction.2"
    assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
    np.testing.assert_array_equal(tensor.data, directions[2])
