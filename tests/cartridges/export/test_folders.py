from __future__ import annotations

import json

import numpy as np
import pytest

from llamacart.cartridge import Fingerprint
from llamacart.errors import InputError
from llamacart.export.adapter import Adapter, LowRank
from llamacart.export.folders import VLLM_RANKS, vllm_rank, write_mlx, write_peft

RNG = np.random.default_rng(0)
LAYERS = tuple(
    LowRank(n, RNG.normal(size=(8, 96)).astype("f4"), RNG.normal(size=(64, 8)).astype("f4"))
    for n in (1, 2)
)
ADAPTER = Adapter("style", "ab" * 32, 0.8, Fingerprint("llama", 3, 96, 64, "00", "Tiny"), LAYERS)


def read(path):
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    assert size % 8 == 0
    header = json.loads(raw[8 : 8 + size])
    metadata = header.pop("__metadata__")
    kinds = {"F16": "<f2", "F32": "<f4"}
    out, end = {}, 0
    for name, entry in header.items():
        begin, stop = entry["data_offsets"]
        assert begin == end
        end = stop
        values = np.frombuffer(raw[8 + size + begin : 8 + size + stop], kinds[entry["dtype"]])
        out[name] = values.reshape(entry["shape"])
    assert len(raw) == 8 + size + end
    return out, metadata


@pytest.mark.parametrize(("kind", "tolerance"), [("f16", 1e-3), ("f32", 0)])
def test_peft(tmp_path, kind, tolerance) -> None:
    folder = tmp_path / "deep" / "peft"
    size = write_peft(ADAPTER, folder, kind=kind, layers_at="language_model.model.layers")
    assert size == sum(path.stat().st_size for path in folder.iterdir())
    tensors, metadata = read(folder / "adapter_model.safetensors")
    start = "base_model.model.language_model.model.layers"
    assert list(tensors) == [
        f"{start}.{n}.mlp.down_proj.lora_{part}.weight" for n in (1, 2) for part in "AB"
    ]
    a, b = (tensors[f"{start}.2.mlp.down_proj.lora_{part}.weight"] for part in "AB")
    np.testing.assert_allclose(a, LAYERS[1].a, rtol=tolerance, atol=1e-4 if tolerance else 0)
    np.testing.assert_allclose(b, LAYERS[1].b, rtol=tolerance, atol=1e-4 if tolerance else 0)
    assert metadata["format"] == "pt"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["r"] == config["lora_alpha"] == 8
    assert config["target_modules"] == ["down_proj"]
    assert config["layers_to_transform"] == [1, 2]
    assert config["bias"] == "none"


def test_mlx(tmp_path) -> None:
    write_mlx(ADAPTER, tmp_path, kind="f32")
    tensors, _ = read(tmp_path / "adapters.safetensors")
    np.testing.assert_array_equal(tensors["model.layers.1.mlp.down_proj.lora_a"], LAYERS[0].a.T)
    np.testing.assert_array_equal(tensors["model.layers.1.mlp.down_proj.lora_b"], LAYERS[0].b.T)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["fine_tune_type"] == "lora"
    assert config["num_layers"] == 3
    assert config["lora_parameters"] == {
        "rank": 8,
        "scale": 1.0,
        "dropout": 0.0,
        "keys": ["mlp.down_proj"],
    }


def test_ranks_of_vllm() -> None:
    assert [vllm_rank(n) for n in (1, 2, 8, 110, 257, 512, 900)] == [1, 8, 8, 128, 320, 512, 512]
    assert list(VLLM_RANKS) == sorted(VLLM_RANKS)


def test_what_does_not_fit_is_refused(tmp_path) -> None:
    large = Adapter(
        "style", "ab", 1.0, ADAPTER.fingerprint, (LowRank(0, 1e6 * LAYERS[0].a, LAYERS[0].b),)
    )
    with pytest.raises(InputError, match=r"lora_A.*does not fit 16 bits; --type f32"):
        write_peft(large, tmp_path / "peft")
    assert list(tmp_path.iterdir()) == []
