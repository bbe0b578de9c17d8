"""The inner product kernel: four rows of a quantized matrix times one or four activation rows.

Written in LLVM IR by hand, because a row's sum must be the same to the bit whether it is computed
alone or beside others: the order of additions is spelled out instead of left to a vectoriser.

The matrix lies in tiles, see `llamacart.matrix`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from llamacart.hook.intrinsics import CACHE_LINE, emit_prefetch
from llamacart.matrix import BLOCK, BLOCK_BYTES, ROWS

if TYPE_CHECKING:
    from collections.abc import Callable


WIDE = 4
"""Activation rows that share one pass over a tile."""

_LANES = 16
# One pass over 16 cartridges leaves the caches behind: measured, prefetching 4 KiB ahead makes it
# 2.8 times faster, since hardware prefetchers stop at page borders.
_PREFETCH_BYTES = 32 * BLOCK_BYTES

_F32, _I8, _I32, _I64 = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_FLOATS = ir.VectorType(_F32, _LANES)
_BYTES = ir.VectorType(_I8, _LANES)


def _tile_kernel(n_tokens: int) -> Callable[..., Any]:
    """An intrinsic (tile, n_blocks, h_0, …, out_0, …) for `n_tokens` activation rows.

    All arguments are addresses, but for n_blocks = D / 32. It writes four float32 sums to each
    out_c: Σ_d scale · value · h_c.
    """

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        tile, n_blocks = args[0], args[1]
        rows = [builder.inttoptr(a, _F32.as_pointer()) for a in args[2 : 2 + n_tokens]]
        outs = [builder.inttoptr(a, _F32.as_pointer()) for a in args[2 + n_tokens :]]
        _Emitter(builder, rows).sums(builder.inttoptr(tile, _I8.as_pointer()), n_blocks, outs)
        return context.get_dummy_value()

    addresses = [types.uintp] * n_tokens
    signature = types.void(types.uintp, types.int64, *addresses, *addresses)
    if n_tokens == 1:

        def one(_typing: Any, _tile: Any, _n: Any, _h: Any, _out: Any) -> Any:
            return signature, codegen

        return intrinsic(one)  # type: ignore[no-any-return]

    def four(
        _typing: Any,
        _tile: Any,
        _n: Any,
        _h0: Any,
        _h1: Any,
        _h2: Any,
        _h3: Any,
        _out0: Any,
        _out1: Any,
        _out2: Any,
        _out3: Any,
    ) -> Any:
        return signature, codegen

    return intrinsic(four)  # type: ignore[no-any-return]


class _Emitter:
    """Emits the sums of one tile over some activation rows."""

    def __init__(self, builder: Any, rows: list[Any]) -> None:
        self._b, self._rows = builder, rows
        module = builder.module
        # Fused where the processor can: `llvm.fma` would call a function for each number elsewhere.
        self._fmuladd = cgutils.get_or_insert_function(
            module, ir.FunctionType(_FLOATS, [_FLOATS] * 3), f"llvm.fmuladd.v{_LANES}f32"
        )

    def sums(self, tile: Any, n_blocks: Any, outs: list[Any]) -> None:
        b = self._b
        zero = ir.Constant(_FLOATS, [0.0] * _LANES)
        totals = [[cgutils.alloca_once_value(b, zero) for _ in outs] for _ in range(ROWS)]
        for total in (t for row in totals for t in row):
            b.store(zero, total)
        with cgutils.for_range(b, n_blocks) as loop:
            block = b.gep(tile, [b.mul(loop.index, _I64(BLOCK_BYTES))])
            self._add_block(block, b.mul(loop.index, _I64(BLOCK)), totals)
        for r in range(ROWS):
            for total, out in zip(totals[r], outs, strict=True):
                b.store(self._reduce(b.load(total)), b.gep(out, [_I64(r)]))

    def _add_block(self, block: Any, column: Any, totals: list[list[Any]]) -> None:
        b = self._b
        for ahead in range(_PREFETCH_BYTES, _PREFETCH_BYTES + BLOCK_BYTES, CACHE_LINE):
            emit_prefetch(b, b.gep(block, [_I64(ahead)]))
        scale_of = b.bitcast(block, _F32.as_pointer())
        scales = [self._splat(b.load(b.gep(scale_of, [_I64(r)]))) for r in range(ROWS)]
        for part in range(0, BLOCK, _LANES):
            at = b.add(column, _I64(part))
            inputs = [self._vector(b.gep(row, [at]), _FLOATS, 4) for row in self._rows]
            for r in range(ROWS):
                values = b.gep(block, [_I64(4 * ROWS + r * BLOCK + part)])
                weight = b.fmul(b.sitofp(self._vector(values, _BYTES, 1), _FLOATS), scales[r])
                for total, h in zip(totals[r], inputs, strict=True):
                    b.store(b.call(self._fmuladd, [weight, h, b.load(total)]), total)

    def _vector(self, address: Any, kind: Any, align: int) -> Any:
        loaded = self._b.load(self._b.bitcast(address, kind.as_pointer()))
        loaded.align = align
        return loaded

    def _splat(self, scalar: Any) -> Any:
        undefined = ir.Constant(_FLOATS, ir.Undefined)
        one = self._b.insert_element(undefined, scalar, _I32(0))
        return self._b.shuffle_vector(one, undefined, _lanes([0] * _LANES))

    def _reduce(self, vector: Any) -> Any:
        b, n = self._b, _LANES
        while n > 1:
            n //= 2
            undefined = ir.Constant(vector.type, ir.Undefined)
            low = b.shuffle_vector(vector, undefined, _lanes(list(range(n))))
            high = b.shuffle_vector(vector, undefined, _lanes(list(range(n, 2 * n))))
            vector = b.fadd(low, high)
        return b.extract_element(vector, _I32(0))


def _lanes(indices: list[int]) -> Any:
    return ir.Constant(ir.VectorType(_I32, len(indices)), indices)


tile_by_one = _tile_kernel(1)
tile_by_four = _tile_kernel(WIDE)
