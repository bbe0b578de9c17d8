"""A quantized matrix says the same in either layout, and is held in one of them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart.matrix import BLOCK, FactoredMatrix, QuantizedMatrix, pack_tiles


def random_matrix(n_rows: int, n_blocks: int, seed: int = 0) -> QuantizedMatrix:
    rng = np.random.default_rng(seed)
    values = rng.integers(-127, 128, (n_rows, n_blocks * BLOCK)).astype(np.int8)
    bits = rng.integers(0, 1 << 16, (n_rows, n_blocks)).astype(np.uint16)
    scales = bits.view(np.float16)
    return QuantizedMatrix(values, np.where(np.isfinite(scales), scales, np.float16(1)))


@given(st.integers(1, 13), st.integers(1, 4), st.integers(0, 99))
def test_tiles_lose_nothing(n_rows: int, n_blocks: int, seed: int) -> None:
    matrix = random_matrix(n_rows, n_blocks, seed)
    (values, scales), dense = matrix.plain(), matrix.dequantize()
    tiles = pack_tiles(values, scales)
    assert matrix.tiles is None
    assert matrix.hold(tiles) is tiles
    assert matrix.tiles is tiles
    assert matrix.shape == (n_rows, n_blocks * BLOCK) == values.shape
    np.testing.assert_array_equal(matrix.values, values)
    np.testing.assert_array_equal(matrix.scales.view("u2"), scales.view("u2"))
    np.testing.assert_array_equal(matrix.dequantize(), dense)


def test_what_it_shows_cannot_be_written_to() -> None:
    matrix = random_matrix(3, 2)
    tiles = matrix.hold(pack_tiles(*matrix.plain()))
    for shown in (tiles, matrix.values, matrix.scales):
        with pytest.raises(ValueError, match="read-only"):
            shown[0, 0] = 1


def test_tiles_that_it_holds_are_kept() -> None:
    matrix = random_matrix(3, 2)
    first = matrix.hold(pack_tiles(*matrix.plain()))
    assert matrix.hold(pack_tiles(*matrix.plain())) is first


def test_it_is_held_once() -> None:
    tracemalloc.start()
    matrix = random_matrix(64, 64)
    before = tracemalloc.get_traced_memory()[0]
    tiles = matrix.hold(pack_tiles(*matrix.plain()))
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    plain = 64 * 64 * (BLOCK + 2)
    assert after - before <= tiles.nbytes - plain + 4096


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(0, 99))
def test_factors_are_their_product(n_rows: int, rank: int, n_blocks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    width = n_blocks * BLOCK
    left, right = rng.normal(size=(n_rows, rank)), rng.normal(size=(rank, width))
    matrix = FactoredMatrix.quantize(left, right)
    assert (matrix.shape, matrix.rank) == ((n_rows, width), rank)
    assert matrix.n_bytes == 2 * n_rows * rank + rank * (width + 2 * n_blocks)
    exact = left @ right
    # Half a level of V and half a unit of U's last bit, a term each.
    bound = np.abs(left) @ np.full((rank, width), np.abs(right).max() / 254) + rank * 2**-9
    assert (np.abs(matrix.dequantize() - exact) <= 2 * bound).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e6])
def test_a_left_factor_fits_16_bit_floats(wrong: float) -> None:
    with pytest.raises(ValueError, match="16-bit float"):
        FactoredMatrix.quantize(np.array([[1.0], [wrong]]), np.ones((1, BLOCK)))
