"""The few functions of libggml that reach a tensor, as seen from Python and from numba.

Only exported accessors are used, never a known layout of `ggml_tensor`, so a move of the
llama.cpp pin needs no change here unless a name disappears. The two fields without an accessor,
a tensor's buffer and what it is computed from, are searched for (`buffer_offset`, `sources`).
"""

from __future__ import annotations

import ctypes
import weakref
from functools import cache

import llama_cpp
from llvmlite import binding as llvm

from llamacart.errors import EngineError

_P = ctypes.c_void_p
_PROTOTYPES: dict[str, tuple[object, list[object]]] = {
    "ggml_get_name": (_P, [_P]),
    "ggml_get_data": (_P, [_P]),
    "ggml_nelements": (ctypes.c_int64, [_P]),
    "ggml_nrows": (ctypes.c_int64, [_P]),
    "ggml_nbytes": (ctypes.c_size_t, [_P]),
    "ggml_is_contiguous": (ctypes.c_bool, [_P]),
    "ggml_backend_tensor_get": (None, [_P, _P, ctypes.c_size_t, ctypes.c_size_t]),
    "ggml_backend_tensor_set": (None, [_P, _P, ctypes.c_size_t, ctypes.c_size_t]),
    "ggml_backend_tensor_get_async": (None, [_P, _P, _P, ctypes.c_size_t, ctypes.c_size_t]),
    "ggml_backend_dev_host_buffer_type": (_P, [_P]),
    "ggml_backend_buft_alloc_buffer": (_P, [_P, ctypes.c_size_t]),
    "ggml_backend_buffer_free": (None, [_P]),
    "ggml_backend_buffer_is_host": (ctypes.c_bool, [_P]),
    "ggml_backend_buffer_get_type": (_P, [_P]),
    "ggml_backend_buffer_get_base": (_P, [_P]),
    "ggml_backend_buffer_get_size": (ctypes.c_size_t, [_P]),
    "ggml_backend_buft_get_device": (_P, [_P]),
    "ggml_backend_graph_compute": (ctypes.c_int, [_P, _P]),
    "ggml_backend_graph_compute_async": (ctypes.c_int, [_P, _P]),
    "ggml_backend_get_device": (_P, [_P]),
    "ggml_backend_sched_get_tensor_backend": (_P, [_P, _P]),
    "ggml_backend_synchronize": (None, [_P]),
}
_SCHEDULER = "_ZNK13llama_context9get_schedEv"  # llama_context::get_sched() const
_WORD = ctypes.sizeof(ctypes.c_void_p)
_WORDS_SEARCHED = 32  # fewer than any `ggml_tensor` has
_Sources = ctypes.c_size_t * 10  # GGML_MAX_SRC


class InitParams(ctypes.Structure):
    """`ggml_init_params`."""

    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", _P),
        ("no_alloc", ctypes.c_bool),
    )


@cache
def library() -> ctypes.CDLL:
    """Libllama and what it is linked with, argument types declared.

    Names are looked up through libllama: its wheel holds each library twice, under two file names,
    and loading one by its path would bring a second copy with a state of its own.
    """
    return declare(_PROTOTYPES)


def declare(prototypes: dict[str, tuple[object, list[object]]]) -> ctypes.CDLL:
    """The library, with what functions return and take said for each name."""
    lib: ctypes.CDLL = llama_cpp.llama_cpp._lib
    for name, (restype, argtypes) in prototypes.items():
        function = getattr(lib, name)
        function.restype = restype
        function.argtypes = argtypes
    return lib


@cache
def expose_to_numba() -> None:
    """Make the functions resolvable by name from compiled code (`numba.types.ExternalFunction`).

    Names instead of addresses keep numba's on-disk cache valid from one process to the next.
    """
    lib = library()
    for name in _PROTOTYPES:
        address = ctypes.cast(getattr(lib, name), _P).value
        llvm.add_symbol(name, address)
    llvm.add_symbol(SCHEDULER_OF, scheduler_getter() or ctypes.cast(_nothing, _P).value)


SCHEDULER_OF = "llamacart_scheduler_of"
"""For compiled code: the scheduler [address] of a `llama_context *`; only to be called where there
is a `scheduler_getter`."""

_nothing = ctypes.CFUNCTYPE(None)(lambda: None)


@cache
def scheduler_getter() -> int:
    """Address of the function that tells a `llama_context`'s scheduler, 0 where there is none.

    No header for C has it: a build may lack it, and a move of the pin may take it away.
    """
    try:
        return ctypes.cast(getattr(library(), _SCHEDULER), _P).value or 0
    except AttributeError:
        return 0


def backend_of(context: int, tensor: int) -> int:
    """The backend that computes a node of a `llama_context *`; 0 where that cannot be known."""
    getter = scheduler_getter()
    if not getter or not context:
        return 0
    scheduler = ctypes.CFUNCTYPE(_P, _P)(getter)(context)
    return int(library().ggml_backend_sched_get_tensor_backend(scheduler, tensor) or 0)


def pinned(tensor: int, n: int) -> ctypes.Array[ctypes.c_float] | None:
    """Memory of the host to which a tensor's device copies without the host's help.

    It is freed with what is returned; None where the device knows no such memory.

    Args:
        tensor: On the device.
        n: Numbers.
    """
    lib, floats = library(), ctypes.c_float * n
    device = lib.ggml_backend_buft_get_device(lib.ggml_backend_buffer_get_type(_buffer(tensor)))
    kind = lib.ggml_backend_dev_host_buffer_type(device) if device else None
    buffer = lib.ggml_backend_buft_alloc_buffer(kind, 4 * n) if kind else None
    if not buffer:
        return None
    memory = floats.from_address(lib.ggml_backend_buffer_get_base(buffer))
    # Not when Python ends: the device's driver may have ended before.
    weakref.finalize(memory, lib.ggml_backend_buffer_free, buffer).atexit = False
    return memory


@cache
def buffer_offset() -> int:
    """Bytes from a `ggml_tensor`'s start to the address of the buffer that holds its data.

    Found with a tensor whose buffer is known.

    Raises:
        EngineError: It is not there; the hook could not tell a device's memory from the host's.
    """
    words, buffer, _ = _placed()
    return _only_place(words, buffer, "the buffer of a ggml tensor")


@cache
def data_offset() -> int:
    """Bytes from a `ggml_tensor`'s start to the address of its data.

    Found with a tensor whose data's address `ggml_get_data` tells.

    Raises:
        EngineError: It is not there.
    """
    words, _, data = _placed()
    return _only_place(words, data, "the data of a ggml tensor")


def _placed() -> tuple[list[int], int, int]:
    """The words of a tensor in host memory, and the addresses of its buffer and of its data."""
    lib = _building()
    context = lib.ggml_init(InitParams(16384, None, True))
    tensor = lib.ggml_new_tensor_1d(context, llama_cpp.GGML_TYPE_F32, 8)
    buffer = lib.ggml_backend_alloc_ctx_tensors_from_buft(
        context, lib.ggml_backend_cpu_buffer_type()
    )
    words, data = _words(tensor), lib.ggml_get_data(tensor)
    lib.ggml_backend_buffer_free(buffer)
    lib.ggml_free(context)
    return words, buffer, data


def _only_place(words: list[int], value: int, what: str) -> int:
    """Bytes before the one word with this value."""
    places = [i for i, word in enumerate(words) if word == value]
    if len(places) != 1:
        raise EngineError(f"{what} cannot be found")
    return places[0] * _WORD


@cache
def source_offset() -> int:
    """Bytes from a `ggml_tensor`'s start to the address of the first tensor it is computed from.

    The second one's comes behind it. Found with a product of two tensors that are known.

    Raises:
        EngineError: They are not there.
    """
    lib = _building()
    context = lib.ggml_init(InitParams(16384, None, True))
    a, b = (lib.ggml_new_tensor_1d(context, llama_cpp.GGML_TYPE_F32, 8) for _ in range(2))
    words = _words(lib.ggml_mul_mat(context, a, b))
    lib.ggml_free(context)
    places = [i for i in range(len(words) - 1) if words[i : i + 2] == [a, b]]
    if len(places) != 1:
        raise EngineError("what a ggml tensor is computed from cannot be found")
    return places[0] * _WORD


def sources(tensor: int) -> tuple[int | None, int | None]:
    """The first two tensors that one is computed from; None where there are fewer."""
    first, second = (ctypes.c_size_t * 2).from_address(tensor + source_offset())
    return first or None, second or None


def all_sources(tensor: int) -> list[int]:
    """All tensors that one is computed from."""
    return [word for word in _Sources.from_address(tensor + source_offset()) if word]


def region(tensor: int) -> range:
    """The addresses of its data."""
    lib = library()
    start = int(lib.ggml_get_data(tensor) or 0)
    return range(start, start + int(lib.ggml_nbytes(tensor)))


def _building() -> ctypes.CDLL:
    """The library, with what makes tensors declared too."""
    library()
    return declare(
        {
            "ggml_init": (_P, [InitParams]),
            "ggml_free": (None, [_P]),
            "ggml_new_tensor_1d": (_P, [_P, ctypes.c_int, ctypes.c_int64]),
            "ggml_mul_mat": (_P, [_P, _P, _P]),
            "ggml_backend_cpu_buffer_type": (_P, []),
            "ggml_backend_alloc_ctx_tensors_from_buft": (_P, [_P, _P]),
        }
    )


def _words(tensor: int) -> list[int]:
    return list((ctypes.c_size_t * _WORDS_SEARCHED).from_address(tensor))


def on_host(tensor: int) -> bool:
    """Whether the tensor's data may be read and written at its address."""
    return bool(library().ggml_backend_buffer_is_host(_buffer(tensor)))


def buffer_region(tensor: int) -> range:
    """The addresses of the buffer that a tensor lies in with others."""
    lib, buffer = library(), _buffer(tensor)
    start = int(lib.ggml_backend_buffer_get_base(buffer) or 0)
    return range(start, start + int(lib.ggml_backend_buffer_get_size(buffer)))


def _buffer(tensor: int) -> int:
    buffer = ctypes.c_size_t.from_address(tensor + buffer_offset()).value
    if not buffer:
        raise EngineError(f"tensor {tensor_name(tensor)!r} lies in no buffer")
    return buffer


def tensor_name(tensor: int) -> str:
    """The node's name in the compute graph, e.g. `ffn_geglu-3`."""
    address = library().ggml_get_name(tensor)
    return ctypes.string_at(address).decode("utf-8", "replace")


def tensor_shape(tensor: int) -> tuple[int, int]:
    """(rows, width) of a tensor seen as a matrix; width is 0 where there are no rows."""
    lib = library()
    n_rows = int(lib.ggml_nrows(tensor))
    return n_rows, int(lib.ggml_nelements(tensor)) // n_rows if n_rows else 0
