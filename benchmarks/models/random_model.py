"""Write a model of random weights in the shape of a public one, for speed and memory.

Its vocabulary, tokenizer and chat template are copied from another model's file; tokens that lack
up to the shape's vocabulary are added as unused ones. Every product's weights are normal with the
variance 1 / inputs, so that activations stay finite and of the size that trained ones have; norms
weigh 1. Blocks of a quantised type are drawn at random from a pool that llama.cpp's own quantiser
made of such numbers: any type that it quantises without an importance matrix will do, a 12-billion
model takes no longer than its bytes take to be written, and never more than one chunk is in memory.
Its texts are noise.

Usage: random_model.py SHAPE FILE [--kind Q4_K_M] [--vocabulary MODEL] [--template gemma] [--seed 0]
"""

from __future__ import annotations

import argparse
import ctypes
import os
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFValueType
from layout import SIZES, Shape, hyperparameters, tensors

from llamacart.chat.templates import BUILTIN
from llamacart.disk.whole import whole_file
from llamacart.llama import ggml
from llamacart.llama.resolve import resolve_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MIXED = "Q4_K_M"
KINDS = (MIXED, "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q5_0", "Q4_0", "Q4_1", "F16", "F32")
POOL_VALUES = 1 << 21
CHUNK_BYTES = 1 << 24
_FALLBACKS = {Kind.Q4_K: Kind.Q5_0, Kind.Q5_K: Kind.Q5_1, Kind.Q6_K: Kind.Q8_0}


@dataclass(frozen=True)
class Vocabulary:
    """What a file says of its tokens.

    Attributes:
        fields: By key of the file, the value, its type, and that of its items.
    """

    fields: dict[str, tuple[Any, GGUFValueType, GGUFValueType | None]]

    @property
    def n_tokens(self) -> int:
        """Tokens that it has."""
        return len(self.fields["tokenizer.ggml.tokens"][0])

    def grown(self, n_tokens: int) -> Vocabulary:
        """The same with unused tokens behind its own, `n_tokens` in all.

        Raises:
            ValueError: It has more.
        """
        missing = n_tokens - self.n_tokens
        if missing < 0:
            raise ValueError(
                f"the vocabulary has {self.n_tokens} tokens, the shape {n_tokens}; give another "
                "model by --vocabulary"
            )
        added: dict[str, list[Any]] = {
            "tokenizer.ggml.tokens": [f"<unused-{i}>" for i in range(missing)],
            "tokenizer.ggml.scores": [0.0] * missing,
            "tokenizer.ggml.token_type": [int(gguf.TokenType.UNUSED)] * missing,
        }
        fields = dict(self.fields)
        for key in added.keys() & fields.keys():
            value, kind, items = fields[key]
            fields[key] = ([*value, *added[key]], kind, items)
        return Vocabulary(fields)

    def with_template(self, template: str) -> Vocabulary:
        """The same with another chat template."""
        kept = ("tokenizer.chat_template", (template, GGUFValueType.STRING, None))
        return Vocabulary(dict([*self.fields.items(), kept]))


def read_vocabulary(path: Path) -> Vocabulary:
    """That of a model's file."""
    fields = {}
    for key, field in gguf.GGUFReader(path).fields.items():
        if key.startswith("tokenizer."):
            items = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
            fields[key] = (field.contents(), field.types[0], items)
    return Vocabulary(fields)


def byte_vocabulary() -> Vocabulary:
    """A SentencePiece vocabulary of four control tokens and the 256 bytes."""
    kinds = gguf.TokenType
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "<|endoftext|>"]
    types = [kinds.UNKNOWN, *[kinds.CONTROL] * 2, *[kinds.BYTE] * 256, kinds.CONTROL]
    array, text, number = GGUFValueType.ARRAY, GGUFValueType.STRING, GGUFValueType.UINT32
    return Vocabulary(
        {
            "tokenizer.ggml.model": ("llama", text, None),
            "tokenizer.ggml.tokens": (tokens, array, text),
            "tokenizer.ggml.scores": ([0.0] * len(tokens), array, GGUFValueType.FLOAT32),
            "tokenizer.ggml.token_type": ([int(t) for t in types], array, GGUFValueType.INT32),
            "tokenizer.ggml.bos_token_id": (1, number, None),
            "tokenizer.ggml.eos_token_id": (2, number, None),
            "tokenizer.ggml.add_bos_token": (True, GGUFValueType.BOOL, None),
        }
    )


def kind_of(name: str, dims: tuple[int, ...], wanted: str, n_layer: int) -> Kind:
    """Type of one tensor.

    Q4_K_M is mixed as llama.cpp mixes it: Q6_K for the embedding, and for values and `ffn_down` of
    the first and the last eighth of the layers and of every third between; Q4_K for the rest.
    Types of 256 a block give way to those of 32 where a row is no multiple of 256.
    """
    if len(dims) == 1:
        return Kind.F32
    kind = Kind.Q4_K if wanted == MIXED else Kind[wanted]
    if wanted == MIXED:
        block, layer, part = name.split(".")[0], 0, name
        if block == "blk":
            layer, part = int(name.split(".")[1]), name.split(".")[2]
        eighth = n_layer // 8
        more = layer < eighth or layer >= 7 * n_layer // 8 or (layer - eighth) % 3 == 2
        if block != "blk" or (more and part in ("attn_v", "ffn_down")):
            kind = Kind.Q6_K
    if dims[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = _FALLBACKS.get(kind, kind)
    return kind


def write_model(
    path: Path, shape: Shape, vocabulary: Vocabulary, *, kind: str = MIXED, seed: int = 0
) -> Path:
    """Write a random model; a file that is there is replaced once the new one is whole.

    Raises:
        ValueError: The vocabulary has more tokens than the shape.
        OSError: The file cannot be written.
    """
    vocabulary = vocabulary.grown(shape.n_vocab)
    rng = np.random.default_rng(seed)
    with whole_file(path) as temporary, ExitStack() as owned:
        writer = gguf.GGUFWriter(temporary, shape.architecture)
        owned.callback(writer.close)
        writer.add_name(f"random {path.stem}")
        for key, value in hyperparameters(shape).items():
            add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
            add(f"{shape.architecture}.{key}", value)
        for key, (value, value_kind, items) in vocabulary.fields.items():
            writer.add_key_value(key, value, value_kind, items)
        kinds = {}
        for name, dims in tensors(shape):
            kinds[name] = kind_of(name, dims, kind, shape.n_layer)
            values = int(np.prod(dims))
            block, size = gguf.GGML_QUANT_SIZES[kinds[name]]
            rows = (*dims[:-1], dims[-1] // block * size)
            writer.add_tensor_info(
                name, rows, np.dtype(np.uint8), values // block * size, kinds[name]
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        (file,) = writer.fout
        writer.write_padding(file, file.tell())
        for name, dims in tensors(shape):
            size = 0
            for chunk in _chunks(name, dims, kinds[name], rng):
                file.write(chunk)
                size += len(chunk)
            writer.write_padding(file, size)
        file.flush()
        os.fsync(file.fileno())
    return path


def _chunks(
    name: str, dims: tuple[int, ...], kind: Kind, rng: np.random.Generator
) -> Iterator[bytes]:
    """A tensor's bytes."""
    if len(dims) == 1:
        value = 1.0 if name.endswith("norm.weight") else 0.0
        yield np.full(dims, value, np.float32).tobytes()
        return
    pool = _pool(kind, dims[-1])
    left = int(np.prod(dims)) // gguf.GGML_QUANT_SIZES[kind][0]
    most = CHUNK_BYTES // pool.shape[1]
    while left:
        n = min(left, most)
        yield pool[rng.integers(len(pool), size=n, dtype=np.int32)].tobytes()
        left -= n


@cache
def _pool(kind: Kind, n_inputs: int) -> NDArray[np.uint8]:
    """Blocks [N, bytes] of a type, of normal numbers with variance 1 / inputs."""
    lib = ggml.library()
    quantise = lib.ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    quantise.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
        ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    block, size = gguf.GGML_QUANT_SIZES[kind]
    values = np.random.default_rng(0).standard_normal(POOL_VALUES, np.float32)
    values /= np.float32(np.sqrt(n_inputs))
    width = max(block, 256)
    out = np.empty((POOL_VALUES // block, size), np.uint8)
    written = quantise(
        int(kind), values.ctypes.data, out.ctypes.data, 0, POOL_VALUES // width, width, None
    )
    if written != out.nbytes:
        raise ValueError(f"llama.cpp quantised {written} bytes to {kind.name}, not {out.nbytes}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SIZES)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--kind", choices=KINDS, default=MIXED)
    parser.add_argument(
        "--vocabulary", default="demo", metavar="MODEL",
        help="model whose vocabulary and chat template are copied: GGUF path, 'demo' or hf:…",
    )  # fmt: skip
    parser.add_argument(
        "--template", choices=BUILTIN,
        help="chat template of this family, as an instruct model has, instead of that model's",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    vocabulary = read_vocabulary(resolve_model(options.vocabulary))
    if options.template:
        vocabulary = vocabulary.with_template(BUILTIN[options.template])
    try:
        write_model(
            options.file, SIZES[options.shape], vocabulary, kind=options.kind, seed=options.seed
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"{options.file}: {options.file.stat().st_size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
