"""A quantized matrix, as its file or as the kernel lays it out; and one held by two factors.

The kernel reads tiles, which stream through the caches:

    tile t = matrix rows 4t..4t+3:  for each block of 32 columns:  4 scales (float32) | 4 × 32 int8

K is padded to a multiple of 4 with rows of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plain = tuple[NDArray[np.int8], NDArray[np.float16]]

BLOCK = 32
"""Weights that share one scale, along D (as in GGML's Q8_0)."""

ROWS = 4
"""Matrix rows in a tile."""

BLOCK_BYTES = ROWS * (4 + BLOCK)
"""Bytes of a block's part of a tile."""


class QuantizedMatrix:
    """A [K, D] matrix in blocks of 32 signed bytes that share a 16-bit float scale.

    It is held once: by `values` and `scales`, or by its tiles, from which those are then made anew
    each time that they are asked for. It never changes.

    Args:
        values: int8 [K, D].
        scales: float16 [K, D // 32]; element (k, d) is values[k, d] * scales[k, d // 32].
    """

    __slots__ = ("_held", "_n_rows")

    def __init__(self, values: NDArray[np.int8], scales: NDArray[np.float16]) -> None:
        self._n_rows = len(values)
        # One assignment replaces it, so that other threads see one layout or the other.
        self._held: Plain | NDArray[np.uint8] = values, scales

    @classmethod
    def quantize(cls, dense: NDArray[np.floating[Any]]) -> QuantizedMatrix:
        """Round a float [K, D] matrix, D a multiple of 32, to the nearest of 255 levels a block.

        Raises:
            ValueError: D is not a multiple of 32, a value is not finite, or a block's scale
                does not fit a 16-bit float.
        """
        n_rows, width = dense.shape
        if width % BLOCK:
            raise ValueError(f"width {width} is not a multiple of {BLOCK}")
        blocks = np.asarray(dense, np.float32).reshape(n_rows, width // BLOCK, BLOCK)
        with np.errstate(over="ignore"):
            scales = (np.abs(blocks).max(axis=2) / 127).astype(np.float16)
        if not np.isfinite(scales).all():
            raise ValueError("a weight is not finite or too large for a 16-bit scale")
        divisor = np.where(scales == 0, np.float16(1), scales).astype(np.float32)
        values = np.rint(blocks / divisor[:, :, None]).clip(-127, 127).astype(np.int8)
        # A scale that underflowed to zero must not leave values that mean nothing.
        values[scales == 0] = 0
        return cls(np.ascontiguousarray(values.reshape(n_rows, width)), scales)

    @property
    def shape(self) -> tuple[int, int]:
        """K and D."""
        held = self._held
        if isinstance(held, tuple):
            return self._n_rows, held[0].shape[1]
        return self._n_rows, held.shape[1] // BLOCK_BYTES * BLOCK

    @property
    def values(self) -> NDArray[np.int8]:
        """int8 [K, D]."""
        return self.plain()[0]

    @property
    def scales(self) -> NDArray[np.float16]:
        """float16 [K, D // 32]."""
        return self.plain()[1]

    def plain(self) -> Plain:
        """`values` and `scales`."""
        held = self._held
        return held if isinstance(held, tuple) else _unpacked(held, self._n_rows)

    @property
    def tiles(self) -> NDArray[np.uint8] | None:
        """Its tiles, where it is held by them."""
        held = self._held
        return None if isinstance(held, tuple) else held

    def hold(self, tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Hold tiles in place of values and scales, unless it already holds some.

        Args:
            tiles: Its own, as `pack_tiles` lays them out.

        Returns:
            The tiles that it holds.
        """
        held = self._held
        if isinstance(held, tuple):
            tiles.setflags(write=False)
            self._held = held = tiles
        return held

    @property
    def n_bytes(self) -> int:
        """Bytes of its values and scales."""
        n_rows, width = self.shape
        return n_rows * (width + 2 * (width // BLOCK))

    def dequantize(self) -> NDArray[np.float32]:
        """The matrix that acts, float32 [K, D]."""
        values, scales = self.plain()
        n_rows, width = values.shape
        blocks = values.reshape(n_rows, width // BLOCK, BLOCK).astype(np.float32)
        return (blocks * scales.astype(np.float32)[:, :, None]).reshape(n_rows, width)


@dataclass(frozen=True, eq=False)
class FactoredMatrix:
    """A [K, D] matrix of rank r, as the product U V of two factors.

    A row's inner products cost r (K + D) multiplications instead of K D, and its bytes shrink.

    Attributes:
        left: U, float16 [K, r].
        right: V [r, D]; only it is quantized.
    """

    left: NDArray[np.float16]
    right: QuantizedMatrix

    @classmethod
    def quantize(
        cls, left: NDArray[np.floating[Any]], right: NDArray[np.floating[Any]]
    ) -> FactoredMatrix:
        """Round float factors U [K, r] and V [r, D], D a multiple of 32, V to 8 bits.

        Raises:
            ValueError: As for `QuantizedMatrix.quantize`, or U does not fit 16-bit floats.
        """
        return cls(half_floats(left), QuantizedMatrix.quantize(right))

    @property
    def shape(self) -> tuple[int, int]:
        """K and D."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def rank(self) -> int:
        """Columns of U, r."""
        return int(self.left.shape[1])

    @property
    def n_bytes(self) -> int:
        """Bytes of both factors, the right one's values and scales."""
        return self.left.nbytes + self.right.n_bytes

    def dequantize(self) -> NDArray[np.float32]:
        """The matrix that acts, float32 [K, D]."""
        product: NDArray[np.float32] = self.left.astype(np.float32) @ self.right.dequantize()
        return product


def half_floats(dense: NDArray[np.floating[Any]]) -> NDArray[np.float16]:
    """A matrix in 16-bit floats.

    Raises:
        ValueError: A value is not finite or too large.
    """
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(dense, np.float16)
    if not np.isfinite(rounded).all():
        raise ValueError("a weight is not finite or too large for a 16-bit float")
    return rounded


def tile_bytes(width: int) -> int:
    """Size of one tile of a matrix [K, `width`]."""
    return width // BLOCK * BLOCK_BYTES


def pack_tiles(values: NDArray[np.int8], scales: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Lay a quantized matrix out as tiles.

    Args:
        values: int8 [K, D], D a multiple of 32.
        scales: [K, D / 32].

    Returns:
        uint8 [⌈K / 4⌉, `tile_bytes(D)`].
    """
    k_active, width = values.shape
    n_tiles, n_blocks = -(-k_active // ROWS), width // BLOCK
    padded_values = np.zeros((n_tiles * ROWS, width), np.int8)
    padded_values[:k_active] = values
    padded_scales = np.zeros((n_tiles * ROWS, n_blocks), np.float32)
    padded_scales[:k_active] = scales
    tiles = np.empty((n_tiles, n_blocks, BLOCK_BYTES), np.uint8)
    scales_by_block = padded_scales.reshape(n_tiles, ROWS, n_blocks).transpose(0, 2, 1)
    tiles[..., : ROWS * 4] = np.ascontiguousarray(scales_by_block).view(np.uint8)
    values_by_block = padded_values.reshape(n_tiles, ROWS, n_blocks, BLOCK).transpose(0, 2, 1, 3)
    tiles[..., ROWS * 4 :] = values_by_block.reshape(n_tiles, n_blocks, ROWS * BLOCK).view(np.uint8)
    return tiles.reshape(n_tiles, tile_bytes(width))


def _unpacked(tiles: NDArray[np.uint8], n_rows: int) -> Plain:
    """Values and scales of tiles, in arrays that cannot be written to."""
    n_tiles = len(tiles)
    blocks = tiles.reshape(n_tiles, -1, BLOCK_BYTES)
    n_blocks = blocks.shape[1]
    by_block = np.ascontiguousarray(blocks[..., : ROWS * 4]).view(np.float32)
    scales = by_block.transpose(0, 2, 1).reshape(n_tiles * ROWS, n_blocks)[:n_rows]
    own = blocks[..., ROWS * 4 :].view(np.int8).reshape(n_tiles, n_blocks, ROWS, BLOCK)
    values = own.transpose(0, 2, 1, 3).reshape(n_tiles * ROWS, n_blocks * BLOCK)[:n_rows]
    plain = np.ascontiguousarray(values), scales.astype(np.float16)
    for array in plain:
        array.setflags(write=False)
    return plain
