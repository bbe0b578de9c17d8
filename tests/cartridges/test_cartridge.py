"""Quantization, content hash, α."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llamacart.cartridge import (
    Cartridge,
    Fingerprint,
    LayerMap,
    Metadata,
    check_alpha,
)
from llamacart.errors import AlphaError
from llamacart.matrix import FactoredMatrix, QuantizedMatrix

WIDTH = 64
PRINT = Fingerprint("llama", 2, WIDTH, 32, "ab" * 32, "base")


def cartridge(seed: int = 0, **metadata: object) -> Cartridge:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(3, WIDTH)).astype(np.float32)
    layer_map = LayerMap.from_dense(1, np.array([4, 9, 60]), weight, rng.normal(size=3))
    return Cartridge(Metadata("c", **metadata), PRINT, (layer_map,))  # type: ignore[arg-type]


@given(hnp.arrays(np.float32, (3, WIDTH), elements=st.floats(-1e4, 1e4, width=32)))
def test_quantization_error_is_half_a_step(dense: np.ndarray) -> None:
    blocks = np.abs(dense).reshape(3, -1, 32).max(axis=2)
    step = np.repeat(blocks / 127, 32, axis=1)
    error = np.abs(QuantizedMatrix.quantize(dense).dequantize() - dense)
    # The scale itself is rounded to 16 bits: 2^-11 of the value, or its least step near zero.
    assert (error <= 0.5 * step + np.abs(dense) * 2**-10 + 127 * 2.0**-24).all()


@pytest.mark.parametrize(
    ("dense", "message"),
    [
        (np.zeros((1, 33)), "not a multiple of 32"),
        (np.full((1, 32), np.nan), "not finite"),
        (np.full((1, 32), 1e9), "too large"),
    ],
)
def test_quantization_refuses(dense: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizedMatrix.quantize(dense)


def test_from_dense_stores_the_difference_to_the_identity() -> None:
    neurons = np.array([1, 40])
    weight = np.zeros((2, WIDTH), np.float32)
    weight[[0, 1], neurons] = 1.0
    assert LayerMap.from_dense(0, neurons, weight, np.ones(2)).delta is None
    weight[0, 7] = 0.5
    stored = LayerMap.from_dense(0, neurons, weight, np.ones(2)).dense_delta(WIDTH)
    assert stored[0, 7] == pytest.approx(0.5, rel=1e-2)
    assert np.count_nonzero(stored) == 1


def test_hash_covers_what_acts_and_nothing_else() -> None:
    base = cartridge()
    assert replace(base, metadata=Metadata("other")).content_hash == base.content_hash
    layer_map = base.layers[0]
    assert layer_map.delta is not None
    values = layer_map.delta.values.copy()
    values[0, 0] += 1
    for changed in (
        replace(base, site="elsewhere"),
        replace(base, layers=(replace(layer_map, layer=0),)),
        replace(base, layers=(replace(layer_map, neurons=layer_map.neurons + 1),)),
        replace(base, layers=(replace(layer_map, bias=layer_map.bias + 1),)),
        replace(base, layers=(replace(layer_map, delta=None),)),
        replace(
            base,
            layers=(replace(layer_map, delta=QuantizedMatrix(values, layer_map.delta.scales)),),
        ),
    ):
        assert changed.content_hash != base.content_hash


def test_hash_covers_both_factors() -> None:
    whole = cartridge().layers[0]
    rng = np.random.default_rng(3)
    left, right = rng.normal(size=(3, 2)), rng.normal(size=(2, WIDTH))
    base = FactoredMatrix.quantize(left, right)
    found = {
        replace(cartridge(), layers=(replace(whole, delta=delta),)).content_hash
        for delta in (
            base,
            whole.delta,
            None,
            base.right,
            replace(base, left=base.left * 2),
            replace(base, right=QuantizedMatrix.quantize(2 * right)),
            FactoredMatrix.quantize(left[:, ::-1], right[::-1]),
        )
    }
    assert len(found) == 7


@pytest.mark.parametrize("alpha", [float("nan"), float("-inf"), 10.01, -10.01])
def test_alpha_out_of_range(alpha: float) -> None:
    with pytest.raises(AlphaError, match="strength has value"):
        check_alpha(alpha, name="strength")


@pytest.mark.parametrize("alpha", [0, -10, 10, 0.6])
def test_alpha_in_range(alpha: float) -> None:
    assert check_alpha(alpha) == alpha


def test_fingerprint_reads_well() -> None:
    assert str(PRINT) == ("base: llama, 2 layers, FFN width 64, embedding 32, weights abababababab")
