"""The inner product kernel, on processors that this machine is not."""

from __future__ import annotations

import platform

import numba
import numpy as np
import pytest
from llvmlite import binding as llvm

from llamacart.hook.tile import WIDE, tile_by_four, tile_by_one
from llamacart.matrix import BLOCK, ROWS, pack_tiles


@numba.njit
def by_one(tile, n_blocks, h, out):  # type: ignore[no-untyped-def]
    tile_by_one(tile, n_blocks, h, out)


@numba.njit
def by_four(tile, n_blocks, h, step, out, out_step):  # type: ignore[no-untyped-def]
    tile_by_four(
        tile,
        n_blocks,
        h,
        h + step,
        h + 2 * step,
        h + 3 * step,
        out,
        out + out_step,
        out + 2 * out_step,
        out + 3 * out_step,
    )


@pytest.fixture(scope="module")
def sums() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums [WIDE, ROWS] by one, by four, and in float64."""
    rng = np.random.default_rng(0)
    width = 4 * BLOCK
    values = rng.integers(-127, 128, (ROWS, width)).astype(np.int8)
    scales = rng.random((ROWS, width // BLOCK)).astype(np.float32)
    h = rng.normal(size=(WIDE, width)).astype(np.float32)
    tiles = pack_tiles(values, scales)
    at, n_blocks = np.uintp(tiles.ctypes.data), np.int64(width // BLOCK)
    one, four = np.zeros((2, WIDE, ROWS), np.float32)
    for i in range(WIDE):
        by_one(at, n_blocks, np.uintp(h[i].ctypes.data), np.uintp(one[i].ctypes.data))
    by_four(
        at,
        n_blocks,
        np.uintp(h.ctypes.data),
        np.uintp(4 * width),
        np.uintp(four.ctypes.data),
        np.uintp(4 * ROWS),
    )
    dense = values.astype(np.float64) * np.repeat(scales, BLOCK, axis=1)
    return one, four, h.astype(np.float64) @ dense.T


def test_a_row_has_the_same_sum_alone_and_beside_others(
    sums: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    one, four, exact = sums
    np.testing.assert_array_equal(one, four)
    np.testing.assert_allclose(one, exact, rtol=1e-4, atol=1e-3)


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="needs LLVM's code generator for x86"
)
@pytest.mark.parametrize("kernel", [by_one, by_four])
def test_no_function_is_called_for_a_product(
    sums: tuple[np.ndarray, np.ndarray, np.ndarray], kernel: numba.core.dispatcher.Dispatcher
) -> None:
    """Without FMA, LLVM makes a call for each number of what must be fused: 40 times slower."""
    triple = "x86_64-unknown-linux-gnu"
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(triple)
    (code,) = kernel.inspect_llvm().values()
    for name, features in (("x86-64", ""), ("sandybridge", "+avx"), ("haswell", "+avx2,+fma")):
        module = llvm.parse_assembly(code)
        module.triple = triple
        machine = target.create_target_machine(cpu=name, features=features, opt=3)
        assembly = machine.emit_assembly(module)
        assert "mulps" in assembly or "vfmadd" in assembly
        assert "fmaf" not in assembly, name
