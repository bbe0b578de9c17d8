"""A random model is what its shape says, in whatever type, and loads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest
import random_model
from gguf import GGMLQuantizationType as Kind
from layout import ARCHITECTURES, SIZES, tensors, tiny
from random_model import byte_vocabulary, kind_of, read_vocabulary, write_model

from llamacart.llama.model import Model
from llamacart.passes.capture import capture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PARAMETERS = {
    "gemma-3-270m": 268e6,
    "gemma-3-1b": 1.00e9,
    "gemma-3-4b": 3.88e9,
    "gemma-3-12b": 11.77e9,
    "llama-3.2-1b": 1.236e9,
    "qwen3-4b": 4.02e9,
}
"""As published; of the two that see, the part that reads and writes text."""


@pytest.fixture(autouse=True)
def small_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_model, "POOL_VALUES", 1 << 14)
    random_model._pool.cache_clear()


@pytest.mark.parametrize("name", SIZES)
def test_public_sizes_have_the_public_number_of_parameters(name: str) -> None:
    count = sum(int(np.prod(dims)) for _, dims in tensors(SIZES[name]))
    assert count == pytest.approx(PARAMETERS[name], rel=0.005)


@pytest.mark.parametrize("kind", random_model.KINDS)
def test_a_model_of_any_type_computes_finite_numbers(tmp_path: Path, kind: str) -> None:
    shape = replace(tiny("gemma3", 300, tied=True), n_embd=256, n_ff=512, n_head_width=64)
    path = write_model(tmp_path / "m.gguf", shape, byte_vocabulary(), kind=kind)
    again = write_model(tmp_path / "again.gguf", shape, byte_vocabulary(), kind=kind, seed=1)
    assert path.stat().st_size == pytest.approx(again.stat().st_size, abs=64)
    assert path.read_bytes()[-4096:] != again.read_bytes()[-4096:]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again.gguf", "m.gguf"]
    with Model(str(path)) as model:
        assert (model.n_layer, model.n_embd, model.n_ff, model.n_vocab) == (3, 256, 512, 300)
        h = capture(model, [[1, 40, 80, 9, 12]])
        stream = capture(model, [[1, 40, 80, 9, 12]], node="l_out")
        weight = model.tensors.read("blk.1.ffn_up.weight", (512, 256))
    assert all(np.isfinite(values).all() for values in (*h.values(), *stream.values()))
    assert 0.1 < float(np.abs(h[1]).max()) < 100
    assert float(weight.std()) == pytest.approx(1 / 16, rel=0.1)
    kinds = {t.name: t.tensor_type for t in gguf.GGUFReader(path).tensors}
    if kind == "Q4_K_M":
        assert kinds["blk.1.attn_v.weight"] in (Kind.Q4_K, Kind.Q6_K)
        assert kinds["token_embd.weight"] == Kind.Q6_K
        assert kinds["blk.1.ffn_up.weight"] == Kind.Q4_K
    else:
        assert kinds["blk.1.ffn_up.weight"] == Kind[kind]
    assert kinds["output_norm.weight"] == Kind.F32


def test_large_blocks_give_way_to_small_ones() -> None:
    assert kind_of("blk.1.ffn_up.weight", (2048, 640), "Q4_K_M", 18) == Kind.Q5_0
    assert kind_of("token_embd.weight", (262144, 640), "Q4_K_M", 18) == Kind.Q8_0
    assert kind_of("blk.0.ffn_down.weight", (640, 2048), "Q4_K_M", 18) == Kind.Q6_K
    assert kind_of("blk.2.ffn_down.weight", (640, 2048), "Q4_K_M", 18) == Kind.Q4_K
    assert kind_of("blk.4.ffn_down.weight", (640, 2048), "Q4_K_M", 18) == Kind.Q6_K


def test_the_vocabulary_is_the_other_models(tiny_path: Callable[..., Path], tmp_path: Path) -> None:
    source = tiny_path(n_words=5, chat_template="{{ messages }}")
    vocabulary = read_vocabulary(source)
    path = write_model(
        tmp_path / "m.gguf", tiny("llama", vocabulary.n_tokens + 9, tied=True), vocabulary
    )
    with Model(str(source)) as old, Model(str(path)) as new:
        assert new.n_vocab == old.n_vocab + 9
        assert new.tokenize(" word3 and") == old.tokenize(" word3 and")
        assert new.chat_template == old.chat_template == "{{ messages }}"
        assert (new.bos_token, new.eos_token) == (old.bos_token, old.eos_token)


def test_a_vocabulary_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 260 tokens, the shape 100; give another model"):
        write_model(tmp_path / "m.gguf", tiny("llama", 100, tied=True), byte_vocabulary())
    assert not list(tmp_path.iterdir())


def test_an_interrupted_file_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(random_model, "_chunks", stop)
    with pytest.raises(KeyboardInterrupt):
        write_model(path, tiny("llama", 260, tied=True), byte_vocabulary())
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_every_size_is_of_a_known_architecture() -> None:
    assert {shape.architecture for shape in SIZES.values()} <= ARCHITECTURES.keys()
