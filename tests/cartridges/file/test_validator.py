"""Hostile bytes for each rule of FORMAT.md, one way or more to break it."""

from __future__ import annotations

import struct
import sys
import tracemalloc
from dataclasses import replace

import pytest

from llamacart.errors import (
    CartridgeFormatError,
)
from llamacart.file import format as fmt
from llamacart.file.reader import read_cartridge

NAN, INFINITY = float("nan"), float("inf")


def setting(key, value, kind=None):
    return lambda raw: raw.set(key, value, kind)


def waiting(text):
    """A file of version 3 whose condition is some JSON."""

    def change(raw):
        raw.set("llamacart.format_version", 3)
        raw.add("llamacart.when", 8, text)

    return change


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
    "count": [having(n_tensors=4097), having(n_keys=65), having(n_tensors=2**64 - 1)],
    "string-length": [
        adding("general.author", 8, HUGE),
        adding("k" * 129, 8, ""),
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
        adding(b"general.\xc0", 8, ""),
        foreign_array(8, 1, struct.pack("<Q3s", 3, b"\xed\xa0\x80")),
        setting("llamacart.settings", r'{"a": "\ud800"}'),
    ],
    "duplicate-key": [
        adding("general.name", 8, "french"),
        lambda raw: [raw.add("general.author", 7, b"\1") for _ in range(2)],
    ],
    "alignment": [adding("general.alignment", 4, n) for n in (0, 16, 64)],
    "adapter-type": [setting("general.type", "model"), setting("adapter.type", "lora")],
    "format-version": [setting("llamacart.format_version", n) for n in (0, 5)],
    "quantization-version": [setting("general.quantization_version", 1)],
    "required-key": [lambda raw, key=key: raw.drop(key) for key in fmt.REQUIRED_KEYS],
    "key-type": [
        setting("llamacart.base.n_layer", 4, 5),
        setting("llamacart.default_alpha", "1.0", 8),
        setting("llamacart.settings", 1, 4),
        setting("general.type", 1, 4),
        adding("general.alignment", 10, struct.pack("<Q", 32)),
    ],
    "unknown-key": [
        adding("llamacart.colour", 8, "red"),
        adding("llamacart.when", 8, '{"said":["a"]}'),
    ],
    "when": [
        waiting(text)
        for text in (
            "{}",
            '{"said":[]}',
            '{"said":"a"}',
            '{"said":["a"],"unless":["b"]}',
            '{"said":[""]}',
            '{"said":[" a"]}',
            '{"said":[1]}',
            '{"said":["a","a"]}',
            '{"said":["a\\tb"]}',
            '{"said":["' + "é" * 129 + '"]}',
        )
    ],
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


FACTORED = [
    pytest.param(rule, change, id=f"{rule}-{number}")
    for rule, changes in {
        "format-version": [setting("llamacart.format_version", 5)],
        "tensor-name": [setting("llamacart.format_version", n) for n in (1, 2)],
        "required-key": [setting("llamacart.format_version", 3)],
        "key-type": [adding("llamacart.when", 4, 1)],
        "layer-tensors": [
            without("blk.1.left"),
            without("blk.1.right"),
            moved("blk.1.left", "blk.1.delta"),
            lambda raw: raw.tensors.append(replace(raw.tensor("blk.1.right"), name="blk.1.delta")),
            lambda raw: raw.tensors.append(replace(raw.tensor("blk.1.left"), name="blk.3.left")),
        ],
        "tensor-dtype": [
            tensor_with("blk.1.left", kind=0),
            tensor_with("blk.1.left", kind=8),
            tensor_with("blk.1.right", kind=1),
        ],
        "tensor-shape": [
            tensor_with("blk.1.left", dims=[3, 2]),
            tensor_with("blk.1.left", dims=[2]),
            tensor_with("blk.1.left", dims=[0, 3]),
            tensor_with("blk.1.left", dims=[4, 3]),  # the rank is above K
            tensor_with("blk.1.left", dims=[2**63, 3]),
            tensor_with("blk.1.left", dims=[2, 2]),
            tensor_with("blk.1.right", dims=[32, 3]),
            tensor_with("blk.1.right", dims=[32, 1]),
            tensor_with("blk.1.right", dims=[64, 2]),
            tensor_with("blk.1.right", dims=[2**64 - 1, 2]),
        ],
        "tensor-offset": [
            tensor_with("blk.1.right", offset=0),
            tensor_with("blk.1.right", kind=2),
        ],
        "finite": [
            patched("blk.1.left", 2, struct.pack("<e", NAN)),
            patched("blk.1.left", 10, struct.pack("<e", INFINITY)),
            patched("blk.1.right", 34, struct.pack("<e", -INFINITY)),
        ],
        "q8-range": [patched("blk.1.right", 40, b"\x80")],
        "content-hash": [
            patched("blk.1.left", 0, struct.pack("<e", 3.0)),
            patched("blk.1.right", 2, b"\x01"),
        ],
    }.items()
    for number, change in enumerate(changes)
]


@pytest.mark.parametrize(("rule", "change"), FACTORED)
def test_hostile_factors(rule, change, tmp_path, packed):
    raw = packed.raw_of(packed.factored())
    change(raw)
    with pytest.raises(CartridgeFormatError) as caught:
        read_cartridge(packed.put(raw, tmp_path / "x.gguf"))
    assert caught.value.rule == rule


def test_each_documented_rule_has_a_hostile_file(packed):
    assert len(packed.RULES) == len(set(packed.RULES))
    assert set(packed.RULES) == set(BROKEN)


@pytest.mark.parametrize(("rule", "change"), CASES)
def test_hostile_file(rule, change, tmp_path, packed):
    raw = packed.raw_of(packed.sample())
    change(raw)
    path = packed.put(raw, tmp_path / "x.gguf")
    n_calls = 0

    def count(*_event):
        nonlocal n_calls
        n_calls += 1

    tracemalloc.start()
    sys.setprofile(count)
    try:
        with pytest.raises(CartridgeFormatError) as caught:
            read_cartridge(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        sys.setprofile(None)
        tracemalloc.stop()
    assert caught.value.rule == rule
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith(f" [{rule}]")
    assert str(caught.value).count(rule + "]") == 1
    assert len(str(caught.value)) < len(str(path)) + 400
    assert peak < 32 << 20
    assert n_calls < 10_000  # of functions: a loop as long as the file says has more
