"""What compiled code says to the processor that numba has no words for."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

CACHE_LINE = 64

_BYTE, _I32 = ir.IntType(8), ir.IntType(32)
_READ, _KEEP, _DATA = _I32(0), _I32(3), _I32(1)


def emit_prefetch(builder: Any, address: Any) -> None:
    """Emit a hint that the cache line at an `i8 *` will be read; any address will do."""
    kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [address, _READ, _KEEP, _DATA])


@intrinsic
def prefetch(_typing: Any, _address: Any) -> Any:
    """Hint that the cache line at an address will be read soon; any address will do."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        emit_prefetch(builder, builder.inttoptr(args[0], _BYTE.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.uintp), codegen


@intrinsic
def pointer(_typing: Any, _address: Any) -> Any:
    """Turn an integer address into a pointer for `carray`."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.uintp), codegen
