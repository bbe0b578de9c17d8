"""A sample cartridge, and files packed by hand: no reader is tested on its own writer alone."""

from __future__ import annotations

import json
import os
import re
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.matrix import FactoredMatrix, QuantizedMatrix

FORMAT_MD = Path(__file__).parents[3] / "cartridges" / "FORMAT.md"
WIDTH = 32


def layer_map(layer: int, neurons: list[int], *, matrix: bool = True, width: int = WIDTH):
    rng = np.random.default_rng(layer)
    n_active = len(neurons)
    delta = QuantizedMatrix.quantize(rng.normal(size=(n_active, width)).astype(np.float32))
    bias = rng.normal(size=n_active).astype(np.float32)
    return LayerMap(layer, np.array(neurons, np.int32), delta if matrix else None, bias)


def sample() -> Cartridge:
    """Two layers: a full map of two neurons and a mean shift of one."""
    return Cartridge(
        metadata=Metadata(
            name="french",
            description="Répond en français.",
            default_alpha=0.8,
            solver="ridge-identity",
            settings={"λ": 1000.0, "layers": [1, 3]},
            dataset_hash="0123456789abcdef",
            diagnostics={"fidelity": {"1": 0.9, "3": None}},
            created="2026-01-02T03:04:05Z",
            tool_version="0.1.0",
        ),
        fingerprint=Fingerprint("gemma3", 4, WIDTH, 16, "deadbeef" * 8, "Gemma 3"),
        layers=(layer_map(1, [0, 31]), layer_map(3, [7], matrix=False)),
    )


def factored() -> Cartridge:
    """Two layers: a map of three neurons in factors of rank 2, and a mean shift."""
    whole = sample()
    rng = np.random.default_rng(5)
    factors = FactoredMatrix.quantize(rng.normal(size=(3, 2)), rng.normal(size=(2, WIDTH)))
    return replace(
        whole, layers=(replace(layer_map(1, [0, 9, 31]), delta=factors), whole.layers[1])
    )


def assert_same(left: Cartridge, right: Cartridge) -> None:
    assert left.metadata == right.metadata
    assert left.fingerprint == right.fingerprint
    assert left.site == right.site
    assert left.when == right.when
    assert left.content_hash == right.content_hash
    assert [m.layer for m in left.layers] == [m.layer for m in right.layers]
    for a, b in zip(left.layers, right.layers, strict=True):
        pairs = [(a.neurons, b.neurons), (a.bias, b.bias)]
        mine, other = a.delta, b.delta
        assert type(mine) is type(other)
        if isinstance(mine, FactoredMatrix) and isinstance(other, FactoredMatrix):
            pairs.append((mine.left, other.left))
            mine, other = mine.right, other.right
        if isinstance(mine, QuantizedMatrix) and isinstance(other, QuantizedMatrix):
            pairs += [(mine.values, other.values), (mine.scales, other.scales)]
        for x, y in pairs:
            assert x.dtype == y.dtype
            assert x.shape == y.shape
            assert x.tobytes() == y.tobytes()


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


@dataclass
class RawTensor:
    name: str
    dims: list[int]
    kind: int
    data: bytes
    offset: int | None = None
    padding: bytes = b"\0"


@dataclass
class Raw:
    """A file in pieces, each of which a test may spoil."""

    keys: list[tuple[str | bytes, int, bytes]]
    tensors: list[RawTensor]
    magic: bytes = b"GGUF"
    version: int = 3
    n_tensors: int | None = None
    n_keys: int | None = None
    padding: bytes = b"\0"
    tail: bytes = b""
    size: int | None = field(default=None)

    def set(self, key: str, value: str | bytes | float, kind: int | None = None) -> None:
        index = [k for k, _, _ in self.keys].index(key)
        self.keys[index] = (key, self.keys[index][1] if kind is None else kind, payload(value))

    def add(self, key: str | bytes, kind: int, data: str | bytes | int) -> None:
        """Bytes are the value as it lies in the file."""
        self.keys.append((key, kind, data if isinstance(data, bytes) else payload(data)))

    def drop(self, key: str) -> None:
        self.keys = [item for item in self.keys if item[0] != key]

    def tensor(self, name: str) -> RawTensor:
        return next(t for t in self.tensors if t.name == name)

    def pack(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_keys = len(self.keys) if self.n_keys is None else self.n_keys
        out = self.magic + struct.pack("<IQQ", self.version, n_tensors, n_keys)
        for key, kind, data in self.keys:
            out += text(key) + struct.pack("<I", kind) + data
        body = b""
        for t in self.tensors:
            offset = len(body) if t.offset is None else t.offset
            out += text(t.name) + struct.pack(f"<I{len(t.dims)}Q", len(t.dims), *t.dims)
            out += struct.pack("<IQ", t.kind, offset)
            body += t.data + t.padding * (-len(t.data) % 32)
        return out + self.padding * (-len(out) % 32) + body + self.tail


def payload(value: str | bytes | float) -> bytes:
    if isinstance(value, float):
        return struct.pack("<f", value)
    return struct.pack("<I", value) if isinstance(value, int) else text(value)


def q8_0(matrix: QuantizedMatrix) -> bytes:
    out = b""
    for values, scales in zip(matrix.values, matrix.scales, strict=True):
        for block, scale in zip(values.reshape(-1, 32), scales, strict=True):
            out += struct.pack("<e32b", scale, *block)
    return out


def version_of(cartridge: Cartridge) -> int:
    if any(isinstance(m.delta, FactoredMatrix) for m in cartridge.layers):
        return 4
    return 3 if cartridge.when else 1


def raw_of(cartridge: Cartridge) -> Raw:
    about, base = cartridge.metadata, cartridge.fingerprint
    values: list[tuple[str, str | float]] = [
        ("general.architecture", base.architecture),
        ("general.type", "adapter"),
        ("adapter.type", "llamacart"),
        ("general.name", about.name),
        ("general.description", about.description),
        ("general.quantization_version", 2),
        ("llamacart.format_version", version_of(cartridge)),
        ("llamacart.site", "ffn_down.input"),
        ("llamacart.base.architecture", base.architecture),
        ("llamacart.base.n_layer", base.n_layer),
        ("llamacart.base.n_ff", base.n_ff),
        ("llamacart.base.n_embd", base.n_embd),
        ("llamacart.base.weights_hash", base.weights_hash),
        ("llamacart.base.name", base.name),
        ("llamacart.default_alpha", about.default_alpha),
        ("llamacart.solver", about.solver),
        ("llamacart.settings", compact(about.settings)),
        ("llamacart.dataset_hash", about.dataset_hash),
        ("llamacart.diagnostics", compact(about.diagnostics)),
        ("llamacart.created", about.created),
        ("llamacart.tool_version", about.tool_version),
        ("llamacart.content_hash", cartridge.content_hash),
    ]
    if cartridge.when:
        values.append(("llamacart.when", compact({"said": cartridge.when})))
    kinds = {str: 8, int: 4, float: 6}
    tensors = []
    for m in cartridge.layers:
        n_active, blk = len(m.neurons), f"blk.{m.layer}"
        tensors.append(RawTensor(f"{blk}.neurons", [n_active], 26, m.neurons.tobytes()))
        if isinstance(m.delta, FactoredMatrix):
            rank, left = m.delta.rank, m.delta.left.astype("<f2").tobytes()
            tensors.append(RawTensor(f"{blk}.left", [rank, n_active], 1, left))
            tensors.append(RawTensor(f"{blk}.right", [base.n_ff, rank], 8, q8_0(m.delta.right)))
        elif m.delta is not None:
            tensors.append(RawTensor(f"{blk}.delta", [base.n_ff, n_active], 8, q8_0(m.delta)))
        tensors.append(RawTensor(f"{blk}.bias", [n_active], 0, m.bias.tobytes()))
    return Raw([(key, kinds[type(v)], payload(v)) for key, v in values], tensors)


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def put(raw: Raw, path: Path) -> Path:
    path.write_bytes(raw.pack())
    if raw.size is not None:
        os.truncate(path, raw.size)
    return path


class Packed:
    """What tests use, as one fixture: this file cannot be imported."""

    WIDTH = WIDTH
    DOCUMENT = FORMAT_MD.read_text("utf-8")
    RULES = re.findall(r"^\| `([a-z0-9-]+)` \|", DOCUMENT, re.MULTILINE)
    sample = staticmethod(sample)
    factored = staticmethod(factored)
    assert_same = staticmethod(assert_same)
    raw_of = staticmethod(raw_of)
    put = staticmethod(put)
    text = staticmethod(text)


@pytest.fixture(scope="session")
def packed() -> type[Packed]:
    """The sample, its file in pieces, and what puts the pieces together."""
    return Packed
