"""What a cartridge is: one sparse affine map per layer, and where it came from.

At a layer with gated FFN product h [D] (the input of the down projection), active
neurons S (K of them), map W [K, D] and bias b [K], a cartridge acts as

    h_S ← h_S + α (W h + b − h_S)  =  h_S + α ((W − E_S) h + b)

where E_S [K, D] picks the rows of S. The right-hand form is the one stored and
computed: `delta` = W − E_S needs no gather of h_S, is zero for a plain mean shift,
and is small where the map is close to the identity, which suits 8-bit storage. It may be
held whole or as the product of two factors of low rank.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from llamacart.errors import AlphaError, CartridgeMismatchError
from llamacart.matrix import FactoredMatrix, QuantizedMatrix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

SITE = "ffn_down.input"
"""The one site of format version 1: the gated product that feeds the down projection."""

ALPHA_LIMIT = 10.0


def check_alpha(alpha: float, *, name: str = "alpha") -> float:
    """Return `alpha` as a float, or raise `AlphaError` unless finite and within ±10."""
    value = float(alpha)
    if not math.isfinite(value) or abs(value) > ALPHA_LIMIT:
        raise AlphaError(
            f"{name} has value {alpha!r}; a finite number from -{ALPHA_LIMIT:g} to "
            f"{ALPHA_LIMIT:g} is needed",
            param=name,
        )
    return value


@dataclass(frozen=True)
class Fingerprint:
    """What tells one model from another.

    Attributes:
        architecture: `general.architecture` of the GGUF file, e.g. `gemma3`.
        n_layer: L.
        n_ff: D, the FFN width.
        n_embd: Width of the residual stream.
        weights_hash: Hex digest over sampled weights; differs between two fine-tunes.
        name: `general.name`, for people; not compared.
    """

    architecture: str
    n_layer: int
    n_ff: int
    n_embd: int
    weights_hash: str
    name: str = ""

    @property
    def shape(self) -> tuple[str, int, int, int]:
        """What must agree for a cartridge to fit at all."""
        return (self.architecture, self.n_layer, self.n_ff, self.n_embd)

    def __str__(self) -> str:
        label = f"{self.name}: " if self.name else ""
        return (
            f"{label}{self.architecture}, {self.n_layer} layers, FFN width {self.n_ff}, "
            f"embedding {self.n_embd}, weights {self.weights_hash[:12]}"
        )


@dataclass(frozen=True)
class LayerMap:
    """The affine map of one layer.

    Attributes:
        layer: Index in 0..L-1.
        neurons: S, int32 [K], strictly ascending, in 0..D-1.
        delta: W − E_S as [K, D], whole or in two factors; None means zero (a mean shift).
        bias: b, float32 [K].
    """

    layer: int
    neurons: NDArray[np.int32]
    delta: QuantizedMatrix | FactoredMatrix | None
    bias: NDArray[np.float32]

    @classmethod
    def from_dense(
        cls,
        layer: int,
        neurons: NDArray[np.integer[Any]],
        weight: NDArray[np.floating[Any]],
        bias: NDArray[np.floating[Any]],
    ) -> LayerMap:
        """Build from W [K, D] itself (not W − E_S), quantizing W − E_S to 8 bits."""
        delta = np.array(weight, dtype=np.float32)
        delta[np.arange(len(neurons)), neurons] -= 1.0
        return cls(
            layer=layer,
            neurons=np.asarray(neurons, np.int32),
            delta=QuantizedMatrix.quantize(delta) if delta.any() else None,
            bias=np.asarray(bias, np.float32),
        )

    def dense_delta(self, width: int) -> NDArray[np.float32]:
        """W − E_S that acts, float32 [K, D] for D = `width`."""
        if self.delta is None:
            return np.zeros((len(self.neurons), width), np.float32)
        return self.delta.dequantize()


@dataclass(frozen=True)
class Metadata:
    """Where a cartridge came from; none of it acts, so none of it is hashed.

    Attributes:
        name: Short id, also the file's stem: letters, digits, `.`, `_`, `-`.
        description: One sentence for people.
        default_alpha: α when a request names none.
        solver: Name of the fit, e.g. `ridge-identity`.
        settings: The fit's settings (JSON object).
        dataset_hash: Hex digest of the training pairs.
        diagnostics: Figures of the fit (JSON object), per layer and in all.
        created: ISO 8601 time, UTC.
        tool_version: Version of llamacart that wrote it.
    """

    name: str
    description: str = ""
    default_alpha: float = 1.0
    solver: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    dataset_hash: str = ""
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    tool_version: str = ""


@dataclass(frozen=True)
class Cartridge:
    """Affine maps for some layers of one model.

    Attributes:
        metadata: Where it came from.
        fingerprint: The model it was made for.
        layers: Ascending by layer; layers without active neurons are absent.
        site: Where it acts; the formats know only `SITE`.
        when: It acts on rows from where one of these texts has been said; the empty tuple means on
            all. See `llamacart.values.mentions`.
    """

    metadata: Metadata
    fingerprint: Fingerprint
    layers: tuple[LayerMap, ...]
    site: str = SITE
    when: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The cartridge's id."""
        return self.metadata.name

    @property
    def n_active(self) -> int:
        """Active neurons over all layers."""
        return sum(len(m.neurons) for m in self.layers)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) over what acts: site, condition, layers, neurons, weights and bias.

        Two cartridges with equal hashes steer alike whatever their metadata says, so the
        hash can key a KV cache.
        """
        digest = hashlib.sha256(self.site.encode())
        if self.when:
            digest.update(json.dumps(self.when).encode())
        for m in self.layers:
            digest.update(np.array([m.layer, len(m.neurons)], "<i8").tobytes())
            digest.update(m.neurons.astype("<i4").tobytes())
            digest.update(m.bias.astype("<f4").tobytes())
            if m.delta is None:
                digest.update(b"\0")
                continue
            if isinstance(m.delta, FactoredMatrix):
                digest.update(b"\2" + np.array(m.delta.rank, "<i8").tobytes())
                digest.update(m.delta.left.astype("<f2").tobytes())
                values, scales = m.delta.right.plain()
            else:
                digest.update(b"\1")
                values, scales = m.delta.plain()
            digest.update(values.tobytes())
            digest.update(scales.astype("<f2").tobytes())
        return digest.hexdigest()


def check_fits(cartridge: Cartridge, fingerprint: Fingerprint, *, force: bool = False) -> None:
    """Raise `CartridgeMismatchError` unless `cartridge` was made for the model.

    Args:
        cartridge: A validated cartridge.
        fingerprint: The loaded model's.
        force: Accept other weights of the same architecture and shape; a difference in shape
            is never accepted.
    """
    made_for = cartridge.fingerprint
    facts = f"cartridge {cartridge.name!r} was made for ({made_for}); the model is ({fingerprint})"
    if cartridge.site != SITE:
        raise CartridgeMismatchError(f"{facts}; site {cartridge.site!r} is not {SITE!r}")
    if made_for.shape != fingerprint.shape:
        raise CartridgeMismatchError(f"{facts}; the shapes differ, so it cannot be used")
    if made_for.weights_hash != fingerprint.weights_hash and not force:
        raise CartridgeMismatchError(f"{facts}; the weights differ")
