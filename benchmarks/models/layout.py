"""What a GGUF of each architecture holds: its hyperparameters, and its tensors with their shapes.

The public sizes (`SIZES`) come from the models' published configurations; an architecture's own
ways (`ARCHITECTURES`) from what llama.cpp asks of its files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    Tensor = tuple[str, tuple[int, ...]]
    """(name, shape); the last axis is the one that is contiguous."""

FULL_EVERY = 6
"""Of Gemma 3's layers, one in so many attends to everything, the others to a window."""


@dataclass(frozen=True)
class Architecture:
    """How an architecture's files differ from llama's.

    Attributes:
        norms: Norms of a layer that have one weight an input, by name.
        norm_bias: Whether each of them, and the output's, has a bias too.
        output_norm: Whether there is a norm behind the last layer with weights.
        layer_norm: Whether the norms subtract the mean.
        fused_qkv: One tensor holds queries, keys and values.
        fused_gate: One tensor holds the FFN's gate and its other half.
        biases: Tensors of a layer that have a bias.
        head_norms: Queries and keys are normalised: `head` by head, `whole` all at once.
        sub_norms: There is a norm before the last product of attention and of FFN.
        half_width: The FFN is half as wide as its file says.
        heads: Whether the output may be the token embedding (`tied`), a tensor of its own
            (`untied`), or either.
        keys: Further keys, without the architecture's name before them.
    """

    norms: tuple[str, ...] = ("attn_norm", "ffn_norm")
    norm_bias: bool = False
    output_norm: bool = True
    layer_norm: bool = False
    fused_qkv: bool = False
    fused_gate: bool = False
    gated: bool = True
    biases: tuple[str, ...] = ()
    head_norms: Literal["head", "whole"] | None = None
    sub_norms: bool = False
    half_width: bool = False
    heads: tuple[str, ...] = ("tied", "untied")
    keys: tuple[tuple[str, Any], ...] = ()


_QKV = ("attn_q", "attn_k", "attn_v")
_POST = ("post_attention_norm", "post_ffw_norm")
_BOTH = ("attn_norm", "ffn_norm", *_POST)
_SCALES = (("logit_scale", 0.5), ("residual_scale", 0.22), ("embedding_scale", 2.0))

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(),
    "mistral3": Architecture(),
    "smollm3": Architecture(),
    "ernie4_5": Architecture(),
    "exaone": Architecture(),
    "xverse": Architecture(heads=("untied",)),
    "internlm2": Architecture(heads=("untied",)),
    "granite": Architecture(keys=_SCALES),
    "minicpm": Architecture(keys=_SCALES),
    "qwen": Architecture(fused_qkv=True, biases=("attn_qkv",), half_width=True, heads=("untied",)),
    "qwen2": Architecture(biases=_QKV),
    "qwen3": Architecture(head_norms="head"),
    "hunyuan-dense": Architecture(head_norms="head"),
    "seed_oss": Architecture(norms=("attn_norm", "post_attention_norm"), biases=_QKV),
    "phi3": Architecture(fused_qkv=True, fused_gate=True),
    "glm4": Architecture(norms=_BOTH, fused_gate=True),
    "gemma": Architecture(heads=("tied",)),
    "gemma2": Architecture(norms=_BOTH, heads=("tied",)),
    "gemma3": Architecture(norms=_BOTH, head_norms="head"),
    "olmo": Architecture(norms=(), output_norm=False, layer_norm=True),
    "olmo2": Architecture(norms=_POST, head_norms="whole", heads=("untied",)),
    "exaone4": Architecture(norms=_POST, head_norms="head"),
    "stablelm": Architecture(norm_bias=True, layer_norm=True, heads=("untied",)),
    "orion": Architecture(norm_bias=True, layer_norm=True, heads=("untied",)),
    "command-r": Architecture(
        norms=("attn_norm",), layer_norm=True, heads=("tied",), keys=(("logit_scale", 0.5),)
    ),
    "cohere2": Architecture(
        norms=("attn_norm",), layer_norm=True, heads=("tied",), keys=(("logit_scale", 0.5),)
    ),
    "bitnet": Architecture(sub_norms=True, heads=("tied",)),
    "arcee": Architecture(gated=False),
}
"""Dense decoders that llama.cpp names a gated product for, and two that it does not steer."""

_WINDOWED = {"gemma2", "gemma3", "cohere2", "exaone4"}


@dataclass(frozen=True)
class Shape:
    """A model's architecture and sizes.

    Attributes:
        architecture: One of `ARCHITECTURES`.
        n_layer: Layers.
        n_embd: Width of the residual stream.
        n_ff: D, width of the FFN.
        n_head: Heads of the queries.
        n_head_kv: Heads of keys and values.
        n_head_width: Width of a head.
        n_vocab: Tokens.
        n_ctx: Tokens that it says it was trained for.
        window: Tokens of sliding attention, where the architecture has it.
        rope_base: Base of the rotary embedding's frequencies.
        epsilon: What the norms add to the mean square.
        tied: Whether the output is the token embedding.
    """

    architecture: str
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    n_head_width: int
    n_vocab: int
    n_ctx: int = 32768
    window: int = 512
    rope_base: float = 1e6
    epsilon: float = 1e-6
    tied: bool = True


_GEMMA = Shape("gemma3", 18, 640, 2048, 4, 1, 256, 262144)

SIZES: dict[str, Shape] = {
    "gemma-3-270m": _GEMMA,
    "gemma-3-1b": replace(_GEMMA, n_layer=26, n_embd=1152, n_ff=6912),
    "gemma-3-4b": replace(
        _GEMMA,
        n_layer=34, n_embd=2560, n_ff=10240, n_head=8, n_head_kv=4, n_ctx=131072, window=1024,
    ),
    "gemma-3-12b": replace(
        _GEMMA,
        n_layer=48, n_embd=3840, n_ff=15360, n_head=16, n_head_kv=8, n_ctx=131072, window=1024,
    ),
    "llama-3.2-1b": Shape(
        "llama", 16, 2048, 8192, 32, 8, 64, 128256, n_ctx=131072, rope_base=5e5, epsilon=1e-5
    ),
    "qwen3-4b": Shape("qwen3", 36, 2560, 9728, 32, 8, 128, 151936, n_ctx=40960),
}  # fmt: skip
"""Public sizes, by name."""


def tiny(architecture: str, n_vocab: int, *, tied: bool) -> Shape:
    """A shape of an architecture that loads and decodes in milliseconds."""
    return Shape(architecture, 3, 64, 96, 2, 2, 32, n_vocab, n_ctx=512, window=64, tied=tied)


def hyperparameters(shape: Shape) -> dict[str, Any]:
    """Keys of the file, without the architecture's name before them."""
    ways = ARCHITECTURES[shape.architecture]
    keys: dict[str, Any] = {
        "block_count": shape.n_layer,
        "context_length": shape.n_ctx,
        "embedding_length": shape.n_embd,
        "feed_forward_length": shape.n_ff * (2 if ways.half_width else 1),
        "attention.head_count": shape.n_head,
        "attention.head_count_kv": shape.n_head_kv,
        "attention.key_length": shape.n_head_width,
        "attention.value_length": shape.n_head_width,
        "rope.dimension_count": shape.n_head_width,
        "rope.freq_base": shape.rope_base,
    }
    name = "layer_norm_epsilon" if ways.layer_norm else "layer_norm_rms_epsilon"
    keys[f"attention.{name}"] = shape.epsilon
    if shape.architecture in _WINDOWED:
        keys["attention.sliding_window"] = shape.window
    return keys | dict(ways.keys)


def tensors(shape: Shape) -> Iterator[Tensor]:
    """Every tensor of the file; those whose name holds `norm` are norms' weights."""
    ways = ARCHITECTURES[shape.architecture]
    embedding = (shape.n_vocab, shape.n_embd)
    yield "token_embd.weight", embedding
    if ways.output_norm:
        yield from _norm("output_norm", shape.n_embd, ways)
    if not shape.tied:
        yield "output.weight", embedding
    for layer in range(shape.n_layer):
        for name, dims in _layer(shape, ways):
            yield f"blk.{layer}.{name}", dims


def _layer(shape: Shape, ways: Architecture) -> Iterator[Tensor]:
    for name in ways.norms:
        yield from _norm(name, shape.n_embd, ways)
    queries = shape.n_head * shape.n_head_width
    keys = shape.n_head_kv * shape.n_head_width
    products = {"attn_q": queries, "attn_k": keys, "attn_v": keys}
    if ways.fused_qkv:
        products = {"attn_qkv": queries + 2 * keys}
    if ways.gated and not ways.fused_gate:
        products["ffn_gate"] = shape.n_ff
    products["ffn_up"] = shape.n_ff * (2 if ways.fused_gate else 1)
    for name, width in products.items():
        yield f"{name}.weight", (width, shape.n_embd)
        if name in ways.biases:
            yield f"{name}.bias", (width,)
    yield "attn_output.weight", (shape.n_embd, queries)
    yield "ffn_down.weight", (shape.n_embd, shape.n_ff)
    if ways.head_norms is not None:
        whole = ways.head_norms == "whole"
        yield "attn_q_norm.weight", (queries if whole else shape.n_head_width,)
        yield "attn_k_norm.weight", (keys if whole else shape.n_head_width,)
    if ways.sub_norms:
        yield "attn_sub_norm.weight", (shape.n_embd,)
        yield "ffn_sub_norm.weight", (shape.n_ff,)


def _norm(name: str, width: int, ways: Architecture) -> Iterator[Tensor]:
    yield f"{name}.weight", (width,)
    if ways.norm_bias:
        yield f"{name}.bias", (width,)
