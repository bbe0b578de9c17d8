"""Models whose rows are not where the hook looks for them are refused when they are loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest

from llamacart.errors import UnsupportedModelError
from llamacart.llama import probe
from llamacart.llama import weights as weights_module
from llamacart.llama.model import Model

N_EMBD, N_FF, N_HEAD, N_VOCAB = 64, 96, 2, 259


class Writer:
    """A random float32 model of two layers with a byte-level vocabulary."""

    def __init__(self, path: Path, architecture: str) -> None:
        self.path, self.rng = path, np.random.default_rng(0)
        self.gguf = gguf.GGUFWriter(path, architecture)
        self.gguf.add_block_count(2)
        self.gguf.add_context_length(64)
        self.gguf.add_embedding_length(N_EMBD)
        self.gguf.add_head_count(N_HEAD)
        self.gguf.add_layer_norm_rms_eps(1e-6)
        tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{i:02X}>".encode() for i in range(256))]
        kinds = gguf.TokenType
        self.gguf.add_tokenizer_model("llama")
        self.gguf.add_token_list(tokens)
        self.gguf.add_token_scores([0.0] * len(tokens))
        self.gguf.add_token_types([kinds.UNKNOWN, *[kinds.CONTROL] * 2, *[kinds.BYTE] * 256])
        self.gguf.add_bos_token_id(1)
        self.gguf.add_eos_token_id(2)
        self.tensor("token_embd.weight", N_VOCAB, N_EMBD)

    def tensor(self, name: str, *dims: int) -> None:
        ones = "norm" in name
        data = np.ones(dims) if ones else self.rng.normal(size=dims) / np.sqrt(dims[-1])
        self.gguf.add_tensor(name, data.astype(np.float32))

    def attention(self, block: str) -> None:
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            self.tensor(f"{block}.{name}.weight", N_EMBD, N_EMBD)

    def feed_forward(self, block: str) -> None:
        self.tensor(f"{block}.ffn_gate.weight", N_FF, N_EMBD)
        self.tensor(f"{block}.ffn_up.weight", N_FF, N_EMBD)
        self.tensor(f"{block}.ffn_down.weight", N_EMBD, N_FF)

    def write(self) -> Path:
        self.gguf.write_header_to_file()
        self.gguf.write_kv_data_to_file()
        self.gguf.write_tensors_to_file()
        self.gguf.close()
        return self.path


def write_lfm2(path: Path) -> Path:
    """Layer 0 a short convolution, layer 1 attention, both with a gated FFN."""
    writer = Writer(path, "lfm2")
    writer.gguf.add_head_count_kv([0, N_HEAD])
    writer.gguf.add_feed_forward_length(N_FF)
    writer.gguf.add_shortconv_l_cache(3)
    writer.tensor("token_embd_norm.weight", N_EMBD)
    for layer in range(2):
        block = f"blk.{layer}"
        writer.tensor(f"{block}.attn_norm.weight", N_EMBD)
        writer.tensor(f"{block}.ffn_norm.weight", N_EMBD)
        writer.feed_forward(block)
    writer.tensor("blk.0.shortconv.conv.weight", N_EMBD, 3)
    writer.tensor("blk.0.shortconv.in_proj.weight", 3 * N_EMBD, N_EMBD)
    writer.tensor("blk.0.shortconv.out_proj.weight", N_EMBD, N_EMBD)
    writer.attention("blk.1")
    for name in ("attn_q_norm", "attn_k_norm"):
        writer.tensor(f"blk.1.{name}.weight", N_EMBD // N_HEAD)
    return writer.write()


def write_mamba(path: Path) -> Path:
    inner, state, rank, kernel = 2 * N_EMBD, 8, 4, 4
    writer = Writer(path, "mamba")
    writer.gguf.add_feed_forward_length(0)
    writer.gguf.add_ssm_conv_kernel(kernel)
    writer.gguf.add_ssm_inner_size(inner)
    writer.gguf.add_ssm_state_size(state)
    writer.gguf.add_ssm_time_step_rank(rank)
    writer.tensor("output_norm.weight", N_EMBD)
    for layer in range(2):
        block = f"blk.{layer}"
        writer.tensor(f"{block}.attn_norm.weight", N_EMBD)
        writer.tensor(f"{block}.ssm_in.weight", 2 * inner, N_EMBD)
        writer.tensor(f"{block}.ssm_conv1d.weight", inner, kernel)
        writer.tensor(f"{block}.ssm_conv1d.bias", inner)
        writer.tensor(f"{block}.ssm_x.weight", rank + 2 * state, inner)
        writer.tensor(f"{block}.ssm_dt.weight", inner, rank)
        writer.tensor(f"{block}.ssm_dt.bias", inner)
        writer.tensor(f"{block}.ssm_a", inner, state)
        writer.tensor(f"{block}.ssm_d", inner)
        writer.tensor(f"{block}.ssm_out.weight", N_EMBD, inner)
    return writer.write()


def write_command_r(path: Path) -> Path:
    """Attention and FFN side by side, on one normed input."""
    writer = Writer(path, "command-r")
    writer.gguf.add_head_count_kv(N_HEAD)
    writer.gguf.add_layer_norm_eps(1e-5)
    writer.gguf.add_logit_scale(0.1)
    writer.gguf.add_feed_forward_length(N_FF)
    writer.tensor("output_norm.weight", N_EMBD)
    for layer in range(2):
        writer.tensor(f"blk.{layer}.attn_norm.weight", N_EMBD)
        writer.attention(f"blk.{layer}")
        writer.feed_forward(f"blk.{layer}")
    return writer.write()


def write_embedding_model(path: Path, causal: bool) -> Path:
    writer = Writer(path, "llama-embed")
    writer.gguf.add_head_count_kv(N_HEAD)
    writer.gguf.add_causal_attention(causal)
    writer.gguf.add_feed_forward_length(N_FF)
    writer.tensor("output_norm.weight", N_EMBD)
    for layer in range(2):
        writer.tensor(f"blk.{layer}.attn_norm.weight", N_EMBD)
        writer.tensor(f"blk.{layer}.ffn_norm.weight", N_EMBD)
        writer.attention(f"blk.{layer}")
        writer.feed_forward(f"blk.{layer}")
    return writer.write()


def test_hybrid_models_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"'lfm2' cannot be steered: it is a hybrid"):
        Model(str(write_lfm2(tmp_path / "lfm2.gguf")))


def test_recurrent_models_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"'mamba' cannot be steered: it is recurrent"):
        Model(str(write_mamba(tmp_path / "mamba.gguf")))


def test_the_probe_finds_by_itself_that_rows_are_reordered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it would where llama.cpp calls a model neither recurrent nor hybrid that is."""
    monkeypatch.setattr(weights_module, "check_kind", lambda *_: None)
    with pytest.raises(
        UnsupportedModelError, match=r"two sequences in a batch, row \d of ffn_swiglu-0 "
    ):
        Model(str(write_lfm2(tmp_path / "lfm2.gguf")))


@pytest.mark.parametrize(
    ("name", "why"),
    [("llama_model_has_encoder", "has an encoder"), ("llama_model_is_diffusion", "by diffusion")],
)
def test_what_does_not_generate_token_by_token(
    tiny_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    monkeypatch.setattr(llama_cpp, name, lambda _model: True)
    with pytest.raises(UnsupportedModelError, match=why):
        Model(str(tiny_path()))


@pytest.mark.parametrize(
    ("causal", "why"),
    [(False, "looks ahead"), (True, "two sequences in a batch")],
)
def test_embedding_models_are_refused(tmp_path: Path, causal: bool, why: str) -> None:
    """They have a gated FFN, but keep no rows of earlier batches."""
    with pytest.raises(UnsupportedModelError, match=rf"'llama-embed' .*{why}"):
        Model(str(write_embedding_model(tmp_path / "embed.gguf", causal)))


def test_models_without_memory_are_refused(
    tiny_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "llama_get_memory", lambda _context: None)
    with pytest.raises(UnsupportedModelError, match="keeps no keys and values"):
        Model(str(tiny_path()))


def test_parallel_residuals_can_be_steered(tmp_path: Path) -> None:
    with Model(str(write_command_r(tmp_path / "cohere.gguf"))) as model:
        assert (model.site_node, model.n_ff) == ("ffn_swiglu", N_FF)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda first, alone, together: first.update({(1, 0): -first[1, 0]}), "in ffn_swiglu-1"),
        (
            lambda first, alone, together: together.update({(0, 4): together[0, 3]}),
            "row 4 of ffn_swiglu-0 is not what token 2 of sequence 0",
        ),
        (
            lambda first, alone, together: together.update(
                {(2, 1): together[2, 3], (2, 3): together[2, 1]}
            ),
            "row 1 of ffn_swiglu-2",
        ),
        (lambda first, alone, together: together.pop((2, 3)), "row 3 of ffn_swiglu-2"),
        (
            lambda first, alone, together: together.update(
                {(1, 2): np.full_like(together[1, 2], np.nan)}
            ),
            "row 2 of ffn_swiglu-1",
        ),
    ],
)
def test_one_row_out_of_place_is_enough(
    tiny_model: Model,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[..., object],
    message: str,
) -> None:
    first, alone, together = probe._runs(tiny_model)
    monkeypatch.setattr(probe, "_runs", lambda _model: (first, alone, together))
    assert probe.check_rows(tiny_model) == tiny_model.row_error
    change(first, alone, together)
    with pytest.raises(UnsupportedModelError, match=message):
        probe.check_rows(tiny_model)


def test_the_largest_difference_is_told(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    first, alone, together = probe._runs(tiny_model)
    assert 0 <= tiny_model.row_error < 1e-2
    together[0, 4] = 1.05 * alone[0][0, 2]
    monkeypatch.setattr(probe, "_runs", lambda _model: (first, alone, together))
    assert probe.check_rows(tiny_model) == pytest.approx(0.05, rel=1e-3)


def test_a_layer_with_more_rows_than_it_should_have(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last layer of some graphs keeps rows whose logits nobody wants."""
    shape = probe.Tap._visit

    def pretend(self: probe.Tap, tensor: int, layer: int) -> bool:
        self._output_rows = self._output_rows[:1]
        return shape(self, tensor, layer)

    monkeypatch.setattr(probe.Tap, "_visit", pretend)
    with pytest.raises(UnsupportedModelError, match="rows where 1 were expected"):
        probe.check_rows(tiny_model)


def test_a_short_vocabulary_of_words_will_do(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "tokenize", lambda *_args, **_options: [5, 5])
    first, second = probe._texts(tiny_model)
    assert len({*first, *second}) == 5
