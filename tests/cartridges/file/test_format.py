"""The file format: hostile bytes for each rule of FORMAT.md, round trips, atomic writes.

`Raw` packs files by hand, so that the reader is not tested against its own writer alone.
"""

from __future__ import annotations

import errno
import json
import os
import re
import struct
import tempfile
import time
import tracemalloc
from dataclasses import dataclass, field, replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata, QuantizedMatrix
from llamacart.errors import (
    CartridgeError,
    CartridgeFormatError,
    NotFoundError,
)
from llamacart.file import format as fmt
from llamacart.file.reader import read_cartridge
from llamacart.file.writer import write_cartridge

FORMAT_MD = Path(__file__).parents[3] / "cartridges" / "FORMAT.md"
DOCUMENTED = re.findall(r"^\| `([a-z0-9-]+)` \|", FORMAT_MD.read_text("utf-8"), re.MULTILINE)
WIDTH = 32
NAN, INFINITY = float("nan"), float("inf")


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


def assert_same(left: Cartridge, right: Cartridge) -> None:
    assert left.metadata == right.metadata
    assert left.fingerprint == right.fingerprint
    assert left.site == right.site
    assert left.content_hash == right.content_hash
    assert [m.layer for m in left.layers] == [m.layer for m in right.layers]
    for a, b in zip(left.layers, right.layers, strict=True):
        pairs = [(a.neurons, b.neurons), (a.bias, b.bias)]
        assert (a.delta is None) == (b.delta is None)
        if a.delta is not None and b.delta is not None:
            pairs += [(a.delta.values, b.delta.values), (a.delta.scales, b.delta.scales)]
        for x, y in pairs:
            assert x.dtype == y.dtype
            assert x.shape == y.shape
            assert x.tobytes() == y.tobytes()


# Files packed by hand


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

    def add(self, key: str | bytes, kind: int, data: bytes) -> None:
        self.keys.append((key, kind, data))

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


def raw_of(cartridge: Cartridge) -> Raw:
    about, base = cartridge.metadata, cartridge.fingerprint
    values: list[tuple[str, str | float]] = [
        ("general.architecture", base.architecture),
        ("general.type", "adapter"),
        ("adapter.type", "llamacart"),
        ("general.name", about.name),
        ("general.description", about.description),
        ("general.quantization_version", 2),
        ("llamacart.format_version", 1),
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
    kinds = {str: 8, int: 4, float: 6}
    tensors = []
    for m in cartridge.layers:
        n_active, blk = len(m.neurons), f"blk.{m.layer}"
        tensors.append(RawTensor(f"{blk}.neurons", [n_active], 26, m.neurons.tobytes()))
        if m.delta is not None:
            tensors.append(RawTensor(f"{blk}.delta", [base.n_ff, n_active], 8, q8_0(m.delta)))
        tensors.append(RawTensor(f"{blk}.bias", [n_active], 0, m.bias.tobytes()))
    return Raw([(key, kinds[type(v)], payload(v)) for key, v in values], tensors)


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# One way or more to break each rule


def setting(key, value, kind=None):
    return lambda raw: raw.set(key, value, kind)


def adding(key, kind, data):
    return lambda raw: raw.add(key, kind, data)


def having(**attributes):
    return lambda raw: [setattr(raw, name, value) for name, value in attributes.items()]


def tensor_with(which, **attributes):
    def change(raw):
        t = raw.tensor(which)
        for name, value in attributes.items():
            setattr(t, name, value)

    return change


def moved(old, new):
    return lambda raw: [setattr(t, "name", t.name.replace(old, new)) for t in raw.tensors]


def patched(name, position, data):
    def change(raw):
        t = raw.tensor(name)
        t.data = t.data[:position] + data + t.data[position + len(data) :]

    return change


def without(name):
    return lambda raw: raw.tensors.remove(raw.tensor(name))


def version_2_with(which, **attributes):
    def change(raw):
        raw.set("llamacart.format_version", 2)
        tensor_with(which, **attributes)(raw)

    return change


def twice(name):
    return lambda raw: raw.tensors.append(raw.tensor(name))


def foreign_array(item, count, data=b""):
    return adding("general.tags", 9, struct.pack("<IQ", item, count) + data)


HUGE = struct.pack("<Q", 2**63)
BROKEN = {
    "file-size": [having(size=fmt.MAX_FILE_BYTES + 1)],
    "truncated": [
        having(size=0),
        having(size=23),
        having(size=40),
        foreign_array(10, 4096, bytes(64)),
        lambda raw: [setattr(t, "data", b"") for t in raw.tensors],
    ],
    "magic": [having(magic=b"GGJT"), having(magic=b"FUGG")],
    "version": [having(version=2), having(version=3 << 24)],
    "count": [having(n_tensors=3073), having(n_keys=65), having(n_tensors=2**64 - 1)],
    "string-length": [
        adding("general.author", 8, HUGE),
        adding("k" * 129, 8, text("")),
        setting("general.description", "x" * (2**20 + 1)),
        tensor_with("blk.1.bias", name="b" * 64),
    ],
    "array-length": [foreign_array(4, 4097), foreign_array(8, 2**63), foreign_array(0, 2**64 - 1)],
    "value-type": [
        adding("general.author", 13, b""),
        foreign_array(9, 1, struct.pack("<IQ", 0, 0)),
        foreign_array(13, 1),
    ],
    "utf-8": [
        setting("general.description", b"\xff"),
        adding(b"general.\xc0", 8, text("")),
        foreign_array(8, 1, text(b"\xed\xa0\x80")),
        setting("llamacart.settings", r'{"a": "\ud800"}'),
    ],
    "duplicate-key": [
        adding("general.name", 8, text("french")),
        lambda raw: [raw.add("general.author", 7, b"\1") for _ in range(2)],
    ],
    "alignment": [adding("general.alignment", 4, payload(n)) for n in (0, 16, 64)],
    "adapter-type": [setting("general.type", "model"), setting("adapter.type", "lora")],
    "format-version": [setting("llamacart.format_version", n) for n in (0, 3)],
    "quantization-version": [setting("general.quantization_version", 1)],
    "required-key": [lambda raw, key=key: raw.drop(key) for key in fmt.REQUIRED_KEYS],
    "key-type": [
        setting("llamacart.base.n_layer", 4, 5),
        setting("llamacart.default_alpha", "1.0", 8),
        setting("llamacart.settings", 1, 4),
        setting("general.type", 1, 4),
        adding("general.alignment", 10, struct.pack("<Q", 32)),
    ],
    "unknown-key": [adding("llamacart.colour", 8, text("red"))],
    "text": [
        setting("general.description", "a\x1b[2J"),
        setting("llamacart.created", "2026\n"),
        setting("llamacart.base.name", "\x7f"),
        setting("llamacart.solver", "\0"),
    ],
    "name": [setting("general.name", s) for s in ("", ".x", "a/b", "a@1", "a:b", "é", "x" * 65)],
    "architecture": [
        setting("general.architecture", "llama"),
        setting("llamacart.base.architecture", "llama"),
        lambda raw: [
            raw.set(k, "") for k in ("general.architecture", "llamacart.base.architecture")
        ],
    ],
    "hash-hex": [
        setting("llamacart.base.weights_hash", ""),
        setting("llamacart.base.weights_hash", "DEADBEEF"),
        setting("llamacart.base.weights_hash", "a" * 129),
        setting("llamacart.dataset_hash", "0123456g"),
    ],
    "site": [setting("llamacart.site", "attn_output.input"), setting("llamacart.site", "")],
    "base-shape": [
        setting("llamacart.base.n_layer", 0),
        setting("llamacart.base.n_layer", 1025),
        setting("llamacart.base.n_ff", 0),
        setting("llamacart.base.n_ff", 33),
        setting("llamacart.base.n_ff", 2**20 + 32),
        setting("llamacart.base.n_embd", 0),
    ],
    "default-alpha": [
        setting("llamacart.default_alpha", a) for a in (NAN, INFINITY, -INFINITY, 10.5, -10.5)
    ],
    "json": [
        setting("llamacart.settings", s)
        for s in (
            "",
            "[]",
            "1",
            "{",
            '{"a": NaN}',
            '{"a": -Infinity}',
            '{"a": 1e999}',
            '{"a": 1, "a": 2}',
            '{"a": ' + "9" * 5000 + "}",
            '{"a": ' + "9" * 10**6 + ".0}",
            '{"a": ' + "[" * 200_000 + "]" * 200_000 + "}",
        )
    ]
    + [
        setting("llamacart.diagnostics", '{"a": {"b": 1, "b": 1}}'),
        setting("llamacart.diagnostics", '{"a": ' * 17 + "1" + "}" * 17),
        setting("llamacart.diagnostics", '{"a": ' + "[" * 16 + "]" * 16 + "}"),
    ],
    "tensor-name": [
        tensor_with("blk.1.bias", name=s)
        for s in ("blk.1.scale", "blk.01.bias", "blk.-1.bias", "blk.1.bias\n", "blk.١.bias", "")
    ],
    "duplicate-tensor": [twice("blk.1.bias"), twice("blk.3.neurons")],
    "layers": [having(tensors=[])],
    "layer-index": [moved("blk.3", "blk.4"), moved("blk.3", "blk.9999")],
    "layer-tensors": [without("blk.1.bias"), without("blk.3.neurons")],
    "tensor-dtype": [
        tensor_with("blk.1.delta", kind=1),
        tensor_with("blk.1.delta", kind=0),
        tensor_with("blk.1.delta", kind=2),  # Q4_0 and Q5_0 came with version 2
        tensor_with("blk.1.delta", kind=6),
        version_2_with("blk.1.delta", kind=3),
        version_2_with("blk.1.bias", kind=2),
        tensor_with("blk.1.bias", kind=1),
        tensor_with("blk.1.neurons", kind=27),
        tensor_with("blk.1.neurons", kind=2**32 - 1),
    ],
    "tensor-shape": [
        tensor_with("blk.1.neurons", dims=[]),
        tensor_with("blk.1.neurons", dims=[2, 1]),
        tensor_with("blk.1.neurons", dims=[0]),
        tensor_with("blk.1.neurons", dims=[33]),
        tensor_with("blk.1.neurons", dims=[2**63, 2]),
        tensor_with("blk.1.neurons", dims=[1, 1, 1, 1, 1]),
        tensor_with("blk.1.bias", dims=[3]),
        tensor_with("blk.1.delta", dims=[2, 32]),
        tensor_with("blk.1.delta", dims=[64]),
        tensor_with("blk.1.delta", dims=[2**64 - 1, 2**64 - 1]),
    ],
    "tensor-offset": [
        version_2_with("blk.1.delta", kind=2),
        version_2_with("blk.1.delta", kind=6),
        *(tensor_with("blk.1.delta", offset=n) for n in (0, 31, 33, 64, 2**63, 2**64 - 32)),
    ],
    "trailing-bytes": [having(tail=b"\0"), having(tail=b"x" * 32)],
    "padding": [having(padding=b"\1"), tensor_with("blk.3.bias", padding=b" ")],
    "index-range": [patched("blk.3.neurons", 0, struct.pack("<i", n)) for n in (-1, 32, -(2**31))],
    "index-order": [patched("blk.1.neurons", 0, struct.pack("<ii", *s)) for s in ((5, 5), (9, 2))],
    "finite": [
        patched("blk.1.bias", 4, struct.pack("<f", NAN)),
        patched("blk.3.bias", 0, struct.pack("<f", -INFINITY)),
        patched("blk.1.delta", 34, struct.pack("<e", INFINITY)),
    ],
    "q8-range": [patched("blk.1.delta", 40, b"\x80")],
    "content-hash": [
        patched("blk.1.neurons", 0, struct.pack("<i", 1)),
        patched("blk.1.delta", 2, b"\x01"),
        patched("blk.3.bias", 0, struct.pack("<f", 3.0)),
        setting("llamacart.content_hash", ""),
        setting("llamacart.content_hash", "0" * 64),
    ],
}
CASES = [
    pytest.param(rule, change, id=f"{rule}-{number}")
    for rule, changes in BROKEN.items()
    for number, change in enumerate(changes)
]


def put(raw: Raw, path: Path) -> Path:
    path.write_bytes(raw.pack())
    if raw.size is not None:
        os.truncate(path, raw.size)
    return path


def test_each_documented_rule_has_a_hostile_file():
    assert len(DOCUMENTED) == len(set(DOCUMENTED))
    assert set(DOCUMENTED) == set(BROKEN)


@pytest.mark.parametrize(("rule", "change"), CASES)
def test_hostile_file(rule, change, tmp_path):
    raw = raw_of(sample())
    change(raw)
    path = put(raw, tmp_path / "x.gguf")
    started = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(CartridgeFormatError) as caught:
            read_cartridge(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.rule == rule
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith(f" [{rule}]")
    assert str(caught.value).count(rule + "]") == 1
    assert len(str(caught.value)) < len(str(path)) + 400
    assert peak < 32 << 20
    assert time.perf_counter() - started < 5


def test_constants_are_those_of_gguf_and_of_the_document():
    assert struct.pack("<I", gguf.GGUF_MAGIC) == fmt.MAGIC
    assert fmt.GGUF_VERSION == gguf.GGUF_VERSION
    assert fmt.ALIGNMENT == gguf.GGUF_DEFAULT_ALIGNMENT
    assert fmt.QUANTIZATION_VERSION == gguf.GGML_QUANT_VERSION
    kinds = gguf.GGUFValueType
    assert (fmt.UINT32, fmt.FLOAT32) == (kinds.UINT32, kinds.FLOAT32)
    assert (fmt.STRING, fmt.ARRAY) == (kinds.STRING, kinds.ARRAY)
    assert set(fmt.VALUE_BYTES) == {k.value for k in kinds} - {kinds.STRING, kinds.ARRAY}
    for number, name in fmt.TENSOR_TYPES.items():
        assert gguf.GGMLQuantizationType(number).name == name
        kind = gguf.GGMLQuantizationType(number)
        assert gguf.GGML_QUANT_SIZES[kind] == fmt.TYPE_BYTES[name]
    document = FORMAT_MD.read_text("utf-8")
    for key in fmt.REQUIRED_KEYS:
        assert f"`{key}`" in document or f"`.{key.rsplit('.', 1)[1]}`" in document, key


# Reading


def test_a_file_packed_by_hand_is_read_and_is_what_the_writer_writes(tmp_path):
    cartridge = sample()
    path = put(raw_of(cartridge), tmp_path / "french.gguf")
    assert_same(read_cartridge(path), cartridge)
    size = write_cartridge(cartridge, tmp_path / "written.gguf")
    assert (tmp_path / "written.gguf").read_bytes() == path.read_bytes()
    assert size == path.stat().st_size


def test_foreign_keys_are_ignored_and_tensors_may_come_in_any_order(tmp_path):
    raw = raw_of(sample())
    for kind, n_bytes in fmt.VALUE_BYTES.items():
        raw.add(f"other.{kind}", kind, b"\xff" * n_bytes)
    foreign_array(8, 2, text("a") + text("b"))(raw)
    raw.add("other.array", 9, struct.pack("<IQ", 10, 3) + bytes(24))
    raw.add("general.alignment", 4, payload(32))
    raw.keys.reverse()
    raw.tensors.reverse()
    assert_same(read_cartridge(put(raw, tmp_path / "x.gguf")), sample())


def test_limits_are_inclusive(tmp_path):
    raw = raw_of(sample())
    raw.set("general.description", "x" * 2**20)
    raw.set("general.name", "A.-_" + "9" * 60)
    raw.set("llamacart.default_alpha", -10.0)
    raw.set("llamacart.diagnostics", '{"a": ' + "[" * 15 + "1" + "]" * 15 + "}")
    raw.add("k" * 128, 9, struct.pack("<IQ", 8, 4096) + text("") * 4096)
    raw.set("llamacart.base.n_layer", 1024)
    for number in range(64 - len(raw.keys)):
        raw.add(f"other.{number}", 0, b"\0")
    assert read_cartridge(put(raw, tmp_path / "x.gguf")).metadata.default_alpha == -10


def test_truncation_at_every_byte(tmp_path):
    path = put(raw_of(sample()), tmp_path / "x.gguf")
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(CartridgeFormatError) as caught:
            read_cartridge(path)
        assert caught.value.rule == "truncated"


DAMAGE = [lambda old, bit=bit: bytes([old ^ 1 << bit]) for bit in range(8)]
DAMAGE += [lambda old, new=new: new for new in (b"\xff" * 8, b"\xff" * 7 + b"\x7f", bytes(8))]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_at_every_byte(damage, tmp_path):
    original = sample()
    good = raw_of(original).pack()
    path = tmp_path / "x.gguf"
    path.write_bytes(good)
    rules = set()
    with path.open("r+b", buffering=0) as file:
        for position in range(len(good)):
            data = damage(good[position])[: len(good) - position]
            file.seek(position)
            file.write(data)
            try:
                assert read_cartridge(path).content_hash == original.content_hash
            except CartridgeFormatError as error:
                rules.add(error.rule)
            file.seek(position)
            file.write(good[position : position + len(data)])
    assert path.read_bytes() == good
    assert "content-hash" in rules
    assert rules <= set(DOCUMENTED)


def test_arrays_outlive_the_file_and_cannot_be_changed(tmp_path):
    path = put(raw_of(sample()), tmp_path / "x.gguf")
    cartridge = read_cartridge(path)
    os.truncate(path, 0)
    path.unlink()
    assert_same(cartridge, sample())
    for m in cartridge.layers:
        arrays = [m.neurons, m.bias]
        arrays += [m.delta.values, m.delta.scales] if m.delta else []
        for array in arrays:
            assert array.base is None
            assert array.flags.c_contiguous
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0


def test_what_is_no_readable_file(tmp_path):
    with pytest.raises(NotFoundError, match=r"missing\.gguf"):
        read_cartridge(tmp_path / "missing.gguf")
    file, loop, pipe = tmp_path / "file", tmp_path / "loop", tmp_path / "pipe"
    file.write_bytes(b"")
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    for path in (tmp_path, file / "x.gguf", loop, pipe, Path("/dev/zero"), tmp_path / "a\0b"):
        with pytest.raises(CartridgeError, match=re.escape(str(path).split("\0")[0])) as caught:
            read_cartridge(path)
        assert not isinstance(caught.value, CartridgeFormatError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    path = put(raw_of(sample()), tmp_path / "x.gguf")
    path.chmod(0)
    with pytest.raises(CartridgeError, match=r"x\.gguf: Permission denied"):
        read_cartridge(path)


# Round trips

printable = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
any_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
json_objects = st.dictionaries(
    any_text,
    st.recursive(
        scalars | any_text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)
hashes = st.text("0123456789abcdef", min_size=8, max_size=128)


@st.composite
def layer_maps(draw: st.DrawFn, layer: int, width: int) -> LayerMap:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_active = draw(st.integers(1, 6) | st.just(width))
    scales = rng.integers(0, 2**16, (n_active, width // 32), np.uint16).view(np.float16)
    scales[~np.isfinite(scales)] = -0.0
    bias = rng.integers(0, 2**32, n_active, np.uint32).view(np.float32)
    bias[~np.isfinite(bias)] = np.finfo(np.float32).max
    values = rng.integers(-127, 128, (n_active, width), np.int8)
    return LayerMap(
        layer=layer,
        neurons=np.sort(rng.choice(width, n_active, replace=False)).astype(np.int32),
        delta=QuantizedMatrix(values, scales) if draw(st.booleans()) else None,
        bias=bias,
    )


@st.composite
def cartridges(draw: st.DrawFn) -> Cartridge:
    n_layer = draw(st.integers(1, 1024))
    width = 32 * draw(st.integers(1, 8))
    layers = draw(st.sets(st.integers(0, n_layer - 1), min_size=1, max_size=4))
    return Cartridge(
        metadata=Metadata(
            name=draw(st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", fullmatch=True)),
            description=draw(printable),
            default_alpha=draw(st.floats(-10, 10, width=32)),
            solver=draw(printable),
            settings=draw(json_objects),
            dataset_hash=draw(hashes | st.just("")),
            diagnostics=draw(json_objects),
            created=draw(printable),
            tool_version=draw(printable),
        ),
        fingerprint=Fingerprint(
            architecture=draw(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)),
            n_layer=n_layer,
            n_ff=width,
            n_embd=draw(st.integers(1, 2**20)),
            weights_hash=draw(hashes),
            name=draw(printable),
        ),
        layers=tuple(draw(layer_maps(layer, width)) for layer in sorted(layers)),
    )


@settings(max_examples=60, deadline=None, database=None)
@given(cartridges())
def test_round_trip(cartridge):
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "first.gguf"), Path(folder, "second.gguf")
        assert write_cartridge(cartridge, first) == first.stat().st_size
        back = read_cartridge(first)
        write_cartridge(back, second)
        assert second.read_bytes() == first.read_bytes()
    alpha = cartridge.metadata.default_alpha
    assert np.float32(back.metadata.default_alpha) == np.float32(alpha)
    assert_same(replace(back, metadata=replace(back.metadata, default_alpha=alpha)), cartridge)


def test_a_decimal_alpha_comes_back_as_written(tmp_path):
    for alpha in (0.8, 1, -0.1, 10, 1e-3, 2.5):
        cartridge = replace(sample(), metadata=replace(sample().metadata, default_alpha=alpha))
        write_cartridge(cartridge, tmp_path / "x.gguf")
        assert read_cartridge(tmp_path / "x.gguf").metadata.default_alpha == alpha


def test_other_tools_read_what_the_writer_writes(tmp_path):
    cartridge = sample()
    write_cartridge(cartridge, tmp_path / "x.gguf")
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert reader.get_field("general.name").contents() == "french"
    assert reader.get_field("llamacart.base.n_ff").contents() == WIDTH
    tensors = {t.name: t for t in reader.tensors}
    full, shift = cartridge.layers
    assert full.delta is not None
    dense = gguf.quants.dequantize(tensors["blk.1.delta"].data, tensors["blk.1.delta"].tensor_type)
    np.testing.assert_array_equal(dense, full.delta.dequantize())
    np.testing.assert_array_equal(tensors["blk.1.neurons"].data, full.neurons)
    np.testing.assert_array_equal(tensors["blk.3.bias"].data, shift.bias)
    assert "blk.3.delta" not in tensors


# Writing


def with_layer(**changes):
    """The sample with its first layer, a full map, changed."""
    first, second = sample().layers
    return replace(sample(), layers=(replace(first, **changes), second))


def with_metadata(**changes):
    return replace(sample(), metadata=replace(sample().metadata, **changes))


def with_base(**changes):
    return replace(sample(), fingerprint=replace(sample().fingerprint, **changes))


def with_delta(values=None, scales=None):
    delta = sample().layers[0].delta
    return with_layer(
        delta=QuantizedMatrix(
            delta.values if values is None else values, delta.scales if scales is None else scales
        )
    )


UNWRITABLE = [
    ("layers", replace(sample(), layers=())),
    ("layers", replace(sample(), layers=sample().layers[::-1])),
    ("layers", replace(sample(), layers=sample().layers[:1] * 2)),
    ("layer-index", with_base(n_layer=3)),
    ("tensor-name", with_layer(layer=-1)),
    ("tensor-dtype", with_layer(neurons=np.array([0, 31]))),
    ("tensor-dtype", with_layer(bias=np.zeros(2))),
    ("tensor-dtype", with_delta(scales=np.zeros((2, 1), np.float32))),
    ("tensor-shape", with_layer(neurons=np.zeros(0, np.int32), bias=np.zeros(0, np.float32))),
    ("tensor-shape", with_layer(bias=np.zeros(3, np.float32))),
    ("tensor-shape", with_layer(bias=np.float32(0))),
    ("tensor-shape", with_delta(values=np.zeros((2, 64), np.int8))),
    ("tensor-shape", with_delta(values=np.zeros(64, np.int8))),
    ("tensor-shape", with_delta(scales=np.zeros((2, 2), np.float16))),
    ("tensor-shape", with_base(n_ff=64)),
    ("index-range", with_layer(neurons=np.array([0, 32], np.int32))),
    ("index-order", with_layer(neurons=np.array([3, 3], np.int32))),
    ("finite", with_layer(bias=np.array([0, NAN], np.float32))),
    ("finite", with_delta(scales=np.array([[0], [INFINITY]], np.float16))),
    ("q8-range", with_delta(values=np.full((2, WIDTH), -128, np.int8))),
    ("site", replace(sample(), site="elsewhere")),
    ("base-shape", with_base(n_ff=48)),
    ("architecture", with_base(architecture="")),
    ("hash-hex", with_base(weights_hash="?")),
    ("name", with_metadata(name="a b")),
    ("default-alpha", with_metadata(default_alpha=NAN)),
    ("text", with_metadata(description="\a")),
    ("utf-8", with_metadata(description="\ud800")),
    ("string-length", with_metadata(solver="é" * 2**20)),
    ("string-length", with_metadata(settings={"a": "x" * 2**20})),
    ("json", with_metadata(settings={"a": NAN})),
    ("json", with_metadata(settings={"a": {1, 2}})),
    ("json", with_metadata(settings={"1": 1, 1: 2})),
    ("json", with_metadata(diagnostics=[1])),
]


@pytest.mark.parametrize(("rule", "cartridge"), UNWRITABLE)
def test_a_broken_cartridge_is_not_written(rule, cartridge, tmp_path):
    with pytest.raises(CartridgeFormatError) as caught:
        write_cartridge(cartridge, tmp_path / "x.gguf")
    assert caught.value.rule == rule
    assert list(tmp_path.iterdir()) == []


def test_a_hash_computed_before_a_change_is_not_written(tmp_path):
    cartridge = sample()
    before = cartridge.content_hash
    cartridge.layers[0].bias[0] += 1
    write_cartridge(cartridge, tmp_path / "x.gguf")
    assert read_cartridge(tmp_path / "x.gguf").content_hash != before


def test_arrays_that_are_not_contiguous_are_written(tmp_path):
    first, second = sample().layers
    wide = QuantizedMatrix(
        np.asfortranarray(first.delta.values), np.repeat(first.delta.scales, 2, axis=1)[:, ::2]
    )
    strided = replace(first, delta=wide, neurons=np.repeat(first.neurons, 2)[::2])
    write_cartridge(replace(sample(), layers=(strided, second)), tmp_path / "x.gguf")
    assert_same(read_cartridge(tmp_path / "x.gguf"), sample())


def test_a_file_in_use_is_replaced_whole(tmp_path):
    path = tmp_path / "x.gguf"
    write_cartridge(sample(), path)
    with path.open("rb") as held:
        write_cartridge(with_metadata(name="other"), path)
        assert held.read() == raw_of(sample()).pack()
    assert read_cartridge(path).name == "other"
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def fail_tensors(monkeypatch):
    def write(self):
        raise RuntimeError("stopped")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", write)
    return RuntimeError


def fail_sync(monkeypatch):
    def sync(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", sync)
    return CartridgeError


def fail_replace(monkeypatch):
    def rename(self, target):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", rename)
    return CartridgeError


def fail_size(monkeypatch):
    monkeypatch.setattr(fmt, "MAX_FILE_BYTES", 1024)
    return CartridgeFormatError


@pytest.mark.parametrize("fail", [fail_tensors, fail_sync, fail_replace, fail_size])
def test_a_failure_leaves_the_old_file_alone(fail, tmp_path, monkeypatch):
    path = tmp_path / "x.gguf"
    write_cartridge(sample(), path)
    old = path.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(fail(patch)):
        write_cartridge(with_metadata(name="other"), path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_alone(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "x.gguf"
    write_cartridge(sample(), path)
    old = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 100, 1000, len(old) - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(CartridgeError, match="cannot write"):
                write_cartridge(with_metadata(name="other"), path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == old
        assert list(tmp_path.iterdir()) == [path]


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "missing" / "x.gguf", tmp_path / "file" / "x.gguf"):
        with pytest.raises(CartridgeError, match=f"cannot write {re.escape(str(path))}"):
            write_cartridge(sample(), path)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
