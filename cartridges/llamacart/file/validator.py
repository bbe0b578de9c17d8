"""The rules of FORMAT.md about what a file says, whoever wrote or read it.

The reader calls `check_keys`, `check_metadata` and the rules of `llamacart.file.layout` on a
header before it touches tensor data, and `check_cartridge` on the result; the writer
calls `check_cartridge` before it opens a file. Each broken rule is a
`CartridgeFormatError` under the rule's name.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from llamacart.cartridge import SITE, Cartridge, Fingerprint, LayerMap, Metadata, check_alpha
from llamacart.errors import AlphaError, CartridgeFormatError
from llamacart.file import format as fmt
from llamacart.file.condition import check_when
from llamacart.file.layout import Tensor, check_layout
from llamacart.file.texts import CONTROL, check_text, format_json, shown
from llamacart.matrix import BLOCK, FactoredMatrix, QuantizedMatrix

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,64}")
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_HASH = re.compile(rf"[0-9a-f]{{{fmt.MIN_HASH_DIGITS},{fmt.MAX_HASH_DIGITS}}}")
_ARRAY_TYPES = {"int32": "I32", "float32": "F32", "float16": "F16", "int8 and float16": "Q8_0"}


def check_fixed(key: str, kind: int, value: object) -> None:
    """Check a key whose legal values are few; others pass.

    The reader calls this as soon as it has the key: a model or a LoRA should be told
    that it is no cartridge, not that its vocabulary is too long.
    """
    if key in fmt.FIXED_VALUES:
        rule, expected_kind, expected = fmt.FIXED_VALUES[key]
        _check_kind(key, kind, expected_kind)
        if value not in expected:
            legal = " or ".join(map(repr, expected))
            raise CartridgeFormatError(rule, f"key {key!r} is {shown(value)}, not {legal}")


def _check_kind(key: str, kind: int, expected: int) -> None:
    if kind != expected:
        raise CartridgeFormatError(
            "key-type", f"key {key!r} has GGUF value type {kind}, not {expected}"
        )


def check_keys(kinds: Mapping[str, int], version: int | None) -> None:
    """Check which keys a file has and their GGUF value types.

    Args:
        kinds: GGUF value type of each key.
        version: Format version; None where the file states none.
    """
    required = fmt.REQUIRED_KEYS | (fmt.VERSION_3_KEYS if version == 3 else {})
    known = required | (fmt.VERSION_3_KEYS if version in fmt.FORMAT_VERSIONS[3:] else {})
    for key, expected in known.items():
        if key in kinds:
            _check_kind(key, kinds[key], expected)
        elif key in required:
            raise CartridgeFormatError("required-key", f"key {key!r} is missing")
    for key in kinds:
        if key.startswith(fmt.PREFIX) and key not in known:
            raise CartridgeFormatError("unknown-key", f"key {key!r} is not one of the format")


def check_metadata(metadata: Metadata, fingerprint: Fingerprint, site: str) -> dict[str, str]:
    """Check everything a cartridge says that is not a tensor.

    Returns:
        By key, the JSON texts of its settings and diagnostics, as a file stores them.
    """
    texts = {
        fmt.NAME: metadata.name,
        fmt.DESCRIPTION: metadata.description,
        fmt.BASE_ARCHITECTURE: fingerprint.architecture,
        fmt.BASE_HASH: fingerprint.weights_hash,
        fmt.BASE_NAME: fingerprint.name,
        fmt.SITE_KEY: site,
        fmt.SOLVER: metadata.solver,
        fmt.DATASET_HASH: metadata.dataset_hash,
        fmt.CREATED: metadata.created,
        fmt.TOOL_VERSION: metadata.tool_version,
    }
    for key, text in texts.items():
        check_text(key, text)
        if found := CONTROL.search(text):
            raise CartridgeFormatError("text", f"key {key!r} holds control character {found[0]!r}")
    _check_match("name", fmt.NAME, metadata.name, _NAME)
    _check_match("architecture", fmt.BASE_ARCHITECTURE, fingerprint.architecture, _ARCHITECTURE)
    _check_match("hash-hex", fmt.BASE_HASH, fingerprint.weights_hash, _HASH)
    if metadata.dataset_hash:
        _check_match("hash-hex", fmt.DATASET_HASH, metadata.dataset_hash, _HASH)
    if site != SITE:
        raise CartridgeFormatError("site", f"key {fmt.SITE_KEY!r} is {shown(site)}, not {SITE!r}")
    _check_base_shape(fingerprint)
    try:
        check_alpha(metadata.default_alpha, name=fmt.DEFAULT_ALPHA)
    except AlphaError as error:
        raise CartridgeFormatError("default-alpha", error.message) from None
    structured = {fmt.SETTINGS: metadata.settings, fmt.DIAGNOSTICS: metadata.diagnostics}
    return {key: format_json(key, value) for key, value in structured.items()}


def _check_match(rule: str, key: str, text: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(text):
        raise CartridgeFormatError(
            rule, f"key {key!r} is {shown(text)}, which does not match {pattern.pattern}"
        )


def _check_base_shape(fingerprint: Fingerprint) -> None:
    for key, value, limit, step in (
        (fmt.BASE_LAYERS, fingerprint.n_layer, fmt.MAX_LAYERS, 1),
        (fmt.BASE_WIDTH, fingerprint.n_ff, fmt.MAX_WIDTH, BLOCK),
        (fmt.BASE_EMBEDDING, fingerprint.n_embd, fmt.MAX_WIDTH, 1),
    ):
        if not 1 <= value <= limit or value % step:
            raise CartridgeFormatError(
                "base-shape",
                f"key {key!r} is {value}; a multiple of {step} from {step} to {limit} is needed",
            )


def check_cartridge(cartridge: Cartridge) -> dict[str, str]:
    """Check a cartridge in memory by all rules that do not concern bytes.

    Returns:
        See `check_metadata`.

    Raises:
        CartridgeFormatError: A rule is broken.
    """
    fingerprint = cartridge.fingerprint
    structured = check_metadata(cartridge.metadata, fingerprint, cartridge.site)
    check_when(cartridge.when)
    for before, after in pairwise(m.layer for m in cartridge.layers):
        if before >= after:
            raise CartridgeFormatError("layers", f"layer {after} comes after layer {before}")
    check_layout(_describe(cartridge.layers), fingerprint)
    for m in cartridge.layers:
        _check_values(m, fingerprint.n_ff)
    return structured


def _describe(layers: Sequence[LayerMap]) -> dict[str, Tensor]:
    tensors = {}
    for m in layers:
        for part, array in (("neurons", m.neurons), ("bias", m.bias)):
            types = str(array.dtype)
            tensors[f"blk.{m.layer}.{part}"] = Tensor(_ARRAY_TYPES.get(types, types), array.shape)
        if isinstance(m.delta, FactoredMatrix):
            types, name = str(m.delta.left.dtype), f"blk.{m.layer}.left"
            tensors[name] = Tensor(_ARRAY_TYPES.get(types, types), m.delta.left.shape)
        for part, matrix in _quantized(m).items():
            values, scales = matrix.plain()
            types = f"{values.dtype} and {scales.dtype}"
            name = f"blk.{m.layer}.{part}"
            tensors[name] = Tensor(_ARRAY_TYPES.get(types, types), values.shape)
            blocks = tuple(n // size for n, size in zip(values.shape, (1, BLOCK), strict=False))
            if scales.shape != blocks:
                raise CartridgeFormatError(
                    "tensor-shape", f"tensor {name!r} has scales {scales.shape}, not {blocks}"
                )
    return tensors


def _quantized(m: LayerMap) -> dict[str, QuantizedMatrix]:
    """A layer's quantized matrix by the name of its part; none for a mean shift."""
    if m.delta is None:
        return {}
    return {"right": m.delta.right} if isinstance(m.delta, FactoredMatrix) else {"delta": m.delta}


def _check_values(m: LayerMap, width: int) -> None:
    name = f"tensor 'blk.{m.layer}."
    outside = m.neurons[(m.neurons < 0) | (m.neurons >= width)]
    if outside.size:
        raise CartridgeFormatError(
            "index-range", f"{name}neurons' has index {outside[0]}; 0 to {width - 1} are possible"
        )
    falls = np.flatnonzero(np.diff(m.neurons) <= 0)
    if falls.size:
        before, after = m.neurons[falls[0] : falls[0] + 2]
        raise CartridgeFormatError("index-order", f"{name}neurons' has {after} after {before}")
    if not np.isfinite(m.bias).all():
        raise CartridgeFormatError("finite", f"{name}bias' has a value that is not finite")
    if isinstance(m.delta, FactoredMatrix) and not np.isfinite(m.delta.left).all():
        raise CartridgeFormatError("finite", f"{name}left' has a value that is not finite")
    for part, matrix in _quantized(m).items():
        values, scales = matrix.plain()
        if not np.isfinite(scales).all():
            raise CartridgeFormatError("finite", f"{name}{part}' has a scale that is not finite")
        if values.min() < -127:
            raise CartridgeFormatError(
                "q8-range", f"{name}{part}' has -128; -127 is the least allowed"
            )
