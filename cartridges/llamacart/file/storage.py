"""How a delta lies in a file: GGML's blocks of 8, 5 or 4 bits.

All three expand without loss to the signed bytes and 16-bit scales that act (`QuantizedMatrix`),
so a kernel and a content hash know nothing of them: a matrix is written in the narrowest blocks
that hold its values, and what has been rounded to few levels is small on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llamacart.matrix import BLOCK, QuantizedMatrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

HALF = BLOCK // 2
SCALE_STEPS = (8 / 7, 1.07, 1.0, 0.95, 0.9, 0.85, 0.8, 0.7)
"""Scales tried for a block, over the one that puts its largest value at the end of the range."""


@dataclass(frozen=True)
class Storage:
    """One of GGML's block types.

    Attributes:
        name: As settings call it.
        ggml_name: As GGUF tools call it.
        ggml_number: As files call it.
        low: Least value.
        high: Largest value.
        block: The bytes of 32 values.
    """

    name: str
    ggml_name: str
    ggml_number: int
    low: int
    high: int
    block: np.dtype[Any]

    def holds(self, values: NDArray[np.int8]) -> bool:
        """Whether every value fits."""
        return bool(values.size == 0 or (self.low <= values.min() and values.max() <= self.high))


STORAGES = {
    storage.name: storage
    for storage in (
        Storage("q4_0", "Q4_0", 2, -8, 7, np.dtype([("scale", "<f2"), ("low", "u1", (HALF,))])),
        Storage(
            "q5_0",
            "Q5_0",
            6,
            -16,
            15,
            np.dtype([("scale", "<f2"), ("high", "<u4"), ("low", "u1", (HALF,))]),
        ),
        Storage(
            "q8_0", "Q8_0", 8, -127, 127, np.dtype([("scale", "<f2"), ("values", "i1", (BLOCK,))])
        ),
    )
}
"""By name, the narrowest first."""


def narrowest(matrix: QuantizedMatrix) -> Storage:
    """The smallest blocks that hold a matrix without loss.

    Raises:
        ValueError: No type does: a value is -128.
    """
    for storage in STORAGES.values():
        if storage.holds(matrix.values):
            return storage
    raise ValueError(f"value {matrix.values.min()} is out of range; -127 is the least allowed")


def pack(matrix: QuantizedMatrix, storage: Storage) -> NDArray[np.uint8]:
    """The bytes of a matrix [K, D] as GGML lays them out, [K, D // 32 * bytes of a block].

    Q4_0 and Q5_0 put values i and i + 16 into one byte, the first into its low half, each raised
    by 8 or 16 to be unsigned; Q5_0 gathers the fifth bits in a 32-bit word, value i in bit i.
    """
    n_rows, n_blocks = matrix.scales.shape
    blocks = np.empty((n_rows, n_blocks), storage.block)
    blocks["scale"] = matrix.scales
    values = matrix.values.reshape(n_rows, n_blocks, BLOCK)
    if storage.name == "q8_0":
        blocks["values"] = values
        return blocks.view(np.uint8)
    raised = (values.astype(np.int16) - storage.low).astype(np.uint8)
    blocks["low"] = (raised[..., :HALF] & 15) | ((raised[..., HALF:] & 15) << 4)
    if storage.name == "q5_0":
        bits = (raised >> 4).astype(np.uint32) << np.arange(BLOCK, dtype=np.uint32)
        blocks["high"] = bits.sum(axis=2, dtype=np.uint32)
    return blocks.view(np.uint8)


def unpack(data: NDArray[Any], storage: Storage, shape: tuple[int, int]) -> QuantizedMatrix:
    """The matrix [K, D] of `shape` that blocks in the layout of `pack` hold.

    Args:
        data: Blocks of type `storage.block`, row by row.
        storage: The block type.
        shape: K and D.
    """
    n_rows, width = shape
    blocks = data.reshape(n_rows, width // BLOCK)
    if storage.name == "q8_0":
        values = blocks["values"]
    else:
        low = blocks["low"]
        raised = np.concatenate([low & 15, low >> 4], axis=2)
        if storage.name == "q5_0":
            bits = blocks["high"][:, :, None] >> np.arange(BLOCK, dtype=np.uint32)
            raised = raised | ((bits & 1) << 4).astype(np.uint8)
        values = (raised.astype(np.int16) + storage.low).astype(np.int8)
    return QuantizedMatrix(
        values=values.reshape(n_rows, width), scales=blocks["scale"].astype(np.float16)
    )


def block_scales(
    blocks: NDArray[np.floating[Any]],
    storage: Storage,
    importance: NDArray[np.floating[Any]] | None = None,
) -> NDArray[np.float16]:
    """A scale for each block that rounds it with a small error.

    Of scales of both signs, for the range of 4 and 5 bits is not symmetric, and of several shares
    of the full range, the one of least squared error.

    Args:
        blocks: Values [..., 32], float.
        storage: The block type.
        importance: Weight of each value's squared error, to be broadcast; None means equal.

    Returns:
        float16 [...]; 0 where no level is worth having.

    Raises:
        ValueError: A value is not finite or too large for a 16-bit scale.
    """
    largest = np.abs(blocks).max(axis=-1)
    with np.errstate(over="ignore"):
        fits = np.isfinite((largest * (SCALE_STEPS[0] / -storage.low)).astype(np.float16))
    if not fits.all():
        raise ValueError("a weight is not finite or too large for a 16-bit scale")
    weights = np.float32(1) if importance is None else importance
    best = np.zeros(largest.shape, np.float16)
    least = (weights * blocks**2).sum(axis=-1)
    for step in SCALE_STEPS:
        for sign in (-1, 1):
            scales = (largest * (step * sign / -storage.low)).astype(np.float16)
            rounded = round_blocks(blocks, scales, storage) * scales.astype(np.float32)[..., None]
            error = (weights * (blocks - rounded) ** 2).sum(axis=-1)
            better = error < least
            best, least = np.where(better, scales, best), np.where(better, error, least)
    return best


def round_blocks(
    blocks: NDArray[np.floating[Any]], scales: NDArray[np.float16], storage: Storage
) -> NDArray[np.int8]:
    """The nearest level of each value: blocks [..., 32] over scales [...], int8 [..., 32]."""
    divisor = np.where(scales == 0, np.float16(1), scales).astype(np.float32)
    levels = np.rint(blocks / divisor[..., None]).clip(storage.low, storage.high)
    values: NDArray[np.int8] = levels.astype(np.int8)
    # A scale that underflowed to zero must not leave values that mean nothing.
    values[scales == 0] = 0
    return values


def quantize(dense: NDArray[np.floating[Any]], storage: Storage) -> QuantizedMatrix:
    """Round a float [K, D] matrix, D a multiple of 32, each value to its nearest level.

    Raises:
        ValueError: D is not a multiple of 32, a value is not finite, or a block's scale does not
            fit a 16-bit float.
    """
    n_rows, width = dense.shape
    if storage.name == "q8_0":
        return QuantizedMatrix.quantize(dense)
    if width % BLOCK:
        raise ValueError(f"width {width} is not a multiple of {BLOCK}")
    blocks = np.asarray(dense, np.float32).reshape(n_rows, width // BLOCK, BLOCK)
    scales = block_scales(blocks, storage)
    values = round_blocks(blocks, scales, storage)
    return QuantizedMatrix(np.ascontiguousarray(values.reshape(n_rows, width)), scales)
