"""A backend of our own on a device of llama.cpp, and memory there."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING

from llamacart.errors import EngineError
from llamacart.llama import ggml

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ctypes.c_void_p
_I = ctypes.c_int64
_S = ctypes.c_size_t
_F = ctypes.c_float
_CPU = 0  # GGML_BACKEND_DEVICE_TYPE_CPU

_PROTOTYPES: dict[str, tuple[object, list[object]]] = {
    "ggml_backend_dev_by_type": (_P, [ctypes.c_int]),
    "ggml_backend_dev_init": (_P, [_P, ctypes.c_char_p]),
    "ggml_backend_dev_buffer_type": (_P, [_P]),
    "ggml_backend_dev_description": (ctypes.c_char_p, [_P]),
    "ggml_backend_dev_memory": (None, [_P, ctypes.POINTER(_S), ctypes.POINTER(_S)]),
    "ggml_backend_dev_name": (ctypes.c_char_p, [_P]),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, [_P, _P]),
    "ggml_backend_free": (None, [_P]),
    "ggml_backend_graph_compute": (ctypes.c_int, [_P, _P]),
    "ggml_backend_buft_alloc_buffer": (_P, [_P, _S]),
    "ggml_backend_buft_get_alignment": (_S, [_P]),
    "ggml_backend_buft_get_alloc_size": (_S, [_P, _P]),
    "ggml_backend_buft_get_device": (_P, [_P]),
    "ggml_backend_buffer_free": (None, [_P]),
    "ggml_backend_buffer_get_base": (_P, [_P]),
    "ggml_backend_buffer_get_size": (_S, [_P]),
    "ggml_backend_buffer_get_type": (_P, [_P]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_P, [_P, _P]),
    "ggml_backend_tensor_alloc": (ctypes.c_int, [_P, _P, _P]),
    "ggml_backend_view_init": (ctypes.c_int, [_P]),
    "ggml_build_forward_expand": (None, [_P, _P]),
    "ggml_free": (None, [_P]),
    "ggml_graph_overhead_custom": (_S, [_S, ctypes.c_bool]),
    "ggml_init": (_P, [ggml.InitParams]),
    "ggml_new_graph_custom": (_P, [_P, _S, ctypes.c_bool]),
    "ggml_new_tensor_1d": (_P, [_P, ctypes.c_int, _I]),
    "ggml_new_tensor_2d": (_P, [_P, ctypes.c_int, _I, _I]),
    "ggml_tensor_overhead": (_S, []),
    "ggml_add": (_P, [_P, _P, _P]),
    "ggml_clamp": (_P, [_P, _P, _F, _F]),
    "ggml_cont": (_P, [_P, _P]),
    "ggml_cpy": (_P, [_P, _P, _P]),
    "ggml_div": (_P, [_P, _P, _P]),
    "ggml_get_rows": (_P, [_P, _P, _P]),
    "ggml_mul": (_P, [_P, _P, _P]),
    "ggml_mul_mat": (_P, [_P, _P, _P]),
    "ggml_repeat_4d": (_P, [_P, _P, _I, _I, _I, _I]),
    "ggml_reshape_2d": (_P, [_P, _P, _I, _I]),
    "ggml_reshape_3d": (_P, [_P, _P, _I, _I, _I]),
    "ggml_scale_bias": (_P, [_P, _P, _F, _F]),
    "ggml_set_rows": (_P, [_P, _P, _P, _P]),
    "ggml_sqr": (_P, [_P, _P]),
    "ggml_sqrt": (_P, [_P, _P]),
    "ggml_sum_rows": (_P, [_P, _P]),
    "ggml_transpose": (_P, [_P, _P]),
    "ggml_view_2d": (_P, [_P, _P, _I, _I, _S, _S]),
    "ggml_view_3d": (_P, [_P, _P, _I, _I, _I, _S, _S, _S]),
}


@cache
def library() -> ctypes.CDLL:
    """Libllama and what it is linked with, what builds and computes graphs declared too."""
    return ggml.declare(_PROTOTYPES)


def device_of(buffer: int) -> int:
    """The device that a buffer's type names, as an address; 0 for plain host memory."""
    lib = library()
    kind = lib.ggml_backend_buffer_get_type(buffer)
    return int(lib.ggml_backend_buft_get_device(kind) or 0)


class Memory:
    """A buffer on a device.

    Args:
        device: Where.
        size: Bytes.

    Raises:
        EngineError: The device has no room.
    """

    def __init__(self, device: Device, size: int) -> None:
        lib = library()
        self.handle = lib.ggml_backend_buft_alloc_buffer(device.buffer_type, max(1, size))
        if not self.handle:
            raise EngineError(f"device {device.name} has no room for {size} bytes of steering")
        self.base = int(lib.ggml_backend_buffer_get_base(self.handle))
        self.size = size

    def close(self) -> None:
        """Free it."""
        if self.handle:
            library().ggml_backend_buffer_free(self.handle)
            self.handle = None


class Device:
    """A backend of our own on a device, for graphs beside llama.cpp's own.

    Args:
        key: What `device_of` says of the buffers there; 0 means the processor.

    Raises:
        EngineError: The device takes no second backend.
    """

    def __init__(self, key: int) -> None:
        lib = library()
        self.key = key
        self.handle = key or lib.ggml_backend_dev_by_type(_CPU)
        self.name = lib.ggml_backend_dev_name(self.handle).decode("utf-8", "replace")
        self.backend = lib.ggml_backend_dev_init(self.handle, None)
        if not self.backend:
            raise EngineError(f"device {self.name} cannot be used beside llama.cpp")
        if key == 0:
            set_threads = getattr(lib, "ggml_backend_cpu_set_n_threads", None)
            if set_threads is not None:
                set_threads.argtypes, set_threads.restype = [_P, ctypes.c_int], None
                set_threads(self.backend, 1)
        self.buffer_type = lib.ggml_backend_dev_buffer_type(self.handle)
        self.alignment = int(lib.ggml_backend_buft_get_alignment(self.buffer_type))
        self._known: dict[str, bool] = {}

    def supports(self, name: str, tensor: int) -> bool:
        """Whether the device computes a node of this operation; asked once for each name."""
        known = self._known.get(name)
        if known is None:
            known = bool(library().ggml_backend_dev_supports_op(self.handle, tensor))
            self._known[name] = known
        return known

    def free_memory(self) -> int:
        """Bytes that nobody has taken there, as far as the device can tell."""
        free, total = _S(0), _S(0)
        library().ggml_backend_dev_memory(self.handle, ctypes.byref(free), ctypes.byref(total))
        return free.value

    def size_of(self, tensor: int) -> int:
        """Bytes that a tensor takes there, its alignment included."""
        size = int(library().ggml_backend_buft_get_alloc_size(self.buffer_type, tensor))
        return -(-size // self.alignment) * self.alignment

    def close(self) -> None:
        """Free the backend; its memory must have been freed before."""
        if self.backend:
            library().ggml_backend_free(self.backend)
            self.backend = None


@cache
def function(name: str) -> Callable[..., int]:
    """A declared function of the library by its name without `ggml_`."""
    found: Callable[..., int] = getattr(library(), f"ggml_{name}")
    return found
