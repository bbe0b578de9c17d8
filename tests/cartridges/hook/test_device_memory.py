"""Tensors of a device: their data is no address that the host may follow.

The device is made here, of ggml's own interface: its buffer has a base that is not its memory, as
those of CUDA, Metal and Vulkan do.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.errors import EngineError
from llamacart.hook.steering_hook import SteeringHook
from llamacart.llama import ggml
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.llama.tap import Tap
from llamacart.values.steering import Dose, apply_reference

P, SIZE = ctypes.c_void_p, ctypes.c_size_t
GET_BASE = ctypes.CFUNCTYPE(P, P)
SET = ctypes.CFUNCTYPE(None, P, P, P, SIZE, SIZE)
GET = ctypes.CFUNCTYPE(None, P, P, P, SIZE, SIZE)
IS_HOST = ctypes.CFUNCTYPE(ctypes.c_bool, P)
DONE = ctypes.CFUNCTYPE(None, P)
NUMBER = ctypes.CFUNCTYPE(SIZE, P)


class BufferType(ctypes.Structure):
    _fields_ = (
        ("get_name", P),
        ("alloc_buffer", P),
        ("get_alignment", NUMBER),
        ("get_max_size", P),
        ("get_alloc_size", P),
        ("is_host", IS_HOST),
        ("device", P),
        ("context", P),
    )


class Interface(ctypes.Structure):
    _fields_ = (
        ("free_buffer", P),
        ("get_base", GET_BASE),
        ("init_tensor", P),
        ("memset_tensor", P),
        ("set_tensor", SET),
        ("get_tensor", GET),
        ("set_tensor_2d", P),
        ("get_tensor_2d", P),
        ("cpy_tensor", P),
        ("clear", P),
        ("reset", P),
    )


class Tensor:
    """One named float32 tensor [T, D] in a device's buffer, or in the host's."""

    def __init__(self, name: str, h: np.ndarray, *, host: bool) -> None:
        ggml.buffer_offset()  # declares what is used here
        lib = ggml.library()
        lib.ggml_new_tensor_2d.restype = P
        lib.ggml_new_tensor_2d.argtypes = [P, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        lib.ggml_set_name.restype, lib.ggml_set_name.argtypes = P, [P, ctypes.c_char_p]
        lib.ggml_backend_buffer_init.restype = P
        lib.ggml_backend_buffer_init.argtypes = [P, Interface, P, SIZE]
        lib.ggml_backend_tensor_alloc.restype = ctypes.c_int
        lib.ggml_backend_tensor_alloc.argtypes = [P, P, P]
        self.memory = np.ascontiguousarray(h, np.float32)
        # What a host would meet that follows the address: here zeros, on a device a fault.
        self.decoy = self.memory if host else np.zeros_like(self.memory)
        self.transfers: list[str] = []
        base = self.decoy.ctypes.data

        def copy(kind: str, target: int, source: int, size: int) -> None:
            self.transfers.append(kind)
            ctypes.memmove(target, source, size)

        def write(_buffer: int, _tensor: int, data: int, offset: int, size: int) -> None:
            copy("set", self.memory.ctypes.data + offset, data, size)

        def read(_buffer: int, _tensor: int, data: int, offset: int, size: int) -> None:
            copy("get", data, self.memory.ctypes.data + offset, size)

        self._kind = BufferType(
            get_alignment=NUMBER(lambda _kind: 32), is_host=IS_HOST(lambda _kind: host)
        )
        self._interface = Interface(
            get_base=GET_BASE(lambda _buffer: base), set_tensor=SET(write), get_tensor=GET(read)
        )
        self._context = lib.ggml_init(ggml.InitParams(16384, None, True))
        self.address = lib.ggml_new_tensor_2d(
            self._context, llama_cpp.GGML_TYPE_F32, h.shape[1], h.shape[0]
        )
        lib.ggml_set_name(self.address, name.encode())
        self._buffer = lib.ggml_backend_buffer_init(
            ctypes.addressof(self._kind), self._interface, None, self.memory.nbytes
        )
        assert lib.ggml_backend_tensor_alloc(self._buffer, self.address, base) == 0

    def forget_buffer(self) -> None:
        ctypes.c_size_t.from_address(self.address + ggml.buffer_offset()).value = 0

    def close(self) -> None:
        ggml.library().ggml_free(self._context)
        ggml.library().ggml_backend_buffer_free(self._buffer)


@pytest.fixture(params=[False, True], ids=["device", "host"])
def tensor(request: pytest.FixtureRequest, tiny_model: Model) -> Iterator[Tensor]:
    h = np.random.default_rng(0).normal(size=(4, tiny_model.n_ff)).astype(np.float32)
    made = Tensor(f"{tiny_model.site_node}-0", h, host=request.param)
    yield made
    made.close()


def test_the_hook_goes_through_the_buffer_of_each_tensor(tiny_model: Model, tensor: Tensor) -> None:
    weight = np.zeros((3, tiny_model.n_ff), np.float32)
    layer_map = LayerMap.from_dense(0, np.arange(3), weight, np.ones(3))
    dose = Dose(Cartridge(Metadata("x"), tiny_model.fingerprint, (layer_map,)), 1.0)
    steerings = [(), (dose,), (dose,), ()]
    expected = apply_reference(tensor.memory, steerings, 0)
    hook = SteeringHook(tiny_model, max_rows=4)
    hook.load(dose.cartridge)
    hook.set_rows(steerings)
    hook.begin(4, np.zeros(0, np.int32))
    for ask in (True, False):
        assert hook.callback(tensor.address, ask, hook.user_data)
    hook.end(1)
    np.testing.assert_allclose(tensor.memory, expected, rtol=1e-5)
    on_host = tensor.decoy is tensor.memory
    assert tensor.transfers == ([] if on_host else ["get", "set"])
    assert on_host or not tensor.decoy.any(), "the address of a device tensor was followed"


def test_the_tap_goes_through_it_too(tiny_model: Model, tensor: Tensor) -> None:
    before = tensor.memory.copy()
    seen = []

    def visit(_layer: int, rows: np.ndarray, h: np.ndarray) -> bool:
        seen.append((rows.tolist(), h.copy()))
        h += 1
        return True

    tap = Tap(tiny_model, visit)
    tap.begin(4, np.zeros(0, np.int32), 0)
    for ask in (True, False):
        assert tap._call(tensor.address, ask, 0)
    tap.end(0)
    ((rows, h),) = seen
    assert rows == [0, 1, 2, 3]
    np.testing.assert_array_equal(h, before)
    np.testing.assert_array_equal(tensor.memory, before + 1)


@pytest.mark.parametrize(("reads_only", "go_on"), [(True, True), (False, False)])
def test_nothing_goes_back_that_nobody_reads(
    tiny_model: Model, tensor: Tensor, reads_only: bool, go_on: bool
) -> None:
    tap = Tap(tiny_model, lambda *_: go_on, reads_only=reads_only)
    tap.begin(4, np.zeros(0, np.int32), 0)
    assert [tap._call(tensor.address, ask, 0) for ask in (True, False)] == [True, go_on]
    assert tensor.transfers == ([] if tensor.decoy is tensor.memory else ["get"])


class Backend:
    """A backend that copies when it is waited for, and not before."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, int, int]] = []
        self.waits = 0
        self._functions = (GET(self._get), DONE(self._synchronize))
        get, done = (ctypes.cast(f, P).value for f in self._functions)
        # Of `ggml_backend`: its id, then what it can do, of which these are the 4th and the 8th.
        self._struct = (P * 20)(*[None] * 4, get, None, None, None, done)
        self.address = ctypes.addressof(self._struct)

    def _get(self, _backend: int, tensor: int, target: int, offset: int, size: int) -> None:
        assert offset == 0
        self.waiting.append((tensor, target, size))

    def _synchronize(self, _backend: int) -> None:
        self.waits += 1
        while self.waiting:
            tensor, target, size = self.waiting.pop(0)
            ggml.library().ggml_backend_tensor_get(tensor, target, 0, size)

    def llama_cpp_waits(self) -> None:
        """As it does before each call back that was asked for."""
        self._synchronize(self.address)
        self.waits -= 1


class TestRowsThatComeWhileOthersAreShown:
    """A tap that only reads: what it has asked for, waited for and shown, layer by layer."""

    @pytest.fixture
    def tensors(self, tiny_model: Model) -> Iterator[list[Tensor]]:
        rng = np.random.default_rng(0)
        made = [
            Tensor(
                f"{tiny_model.site_node}-{layer}",
                rng.normal(size=(4, tiny_model.n_ff)).astype(np.float32),
                host=False,
            )
            for layer in range(tiny_model.n_layer)
        ]
        yield made
        for tensor in made:
            tensor.close()

    @pytest.fixture
    def backend(self, monkeypatch: pytest.MonkeyPatch) -> Backend:
        made = Backend()
        monkeypatch.setattr(ggml, "backend_of", lambda _context, _tensor: made.address)
        monkeypatch.setattr(ggml, "pinned", lambda _tensor, n: (ctypes.c_float * n)())
        return made

    def test_each_layer_is_shown_while_the_next_one_is_copied(
        self, tiny_model: Model, tensors: list[Tensor], backend: Backend
    ) -> None:
        shown: list[tuple[int, int]] = []

        def visit(layer: int, rows: np.ndarray, h: np.ndarray) -> bool:
            assert rows.tolist() == [0, 1, 2, 3]
            np.testing.assert_array_equal(h, tensors[layer].memory)
            shown.append((layer, len(backend.waiting)))
            return True

        tap = Tap(tiny_model, visit, reads_only=True, lags=True)
        for _ in range(2):
            shown.clear()
            tap.begin(4, np.arange(4, dtype=np.int32), 1)
            for layer, tensor in enumerate(tensors):
                assert tap._call(tensor.address, True, 0)
                backend.llama_cpp_waits()
                assert tap._call(tensor.address, False, 0)
                assert len(shown) == (layer if layer < 2 else 3)
            tap.end(0)
            assert shown == [(0, 1), (1, 1), (2, 0)]
        assert [tensor.transfers for tensor in tensors] == [["get", "get"]] * 3
        assert backend.waits == 2  # one a pass, for the last layer; as many as layers without

    def test_what_the_last_layer_does_not_show_is_shown_at_the_end(
        self, tiny_model: Model, tensors: list[Tensor], backend: Backend
    ) -> None:
        """It has no rows where none has outputs."""
        shown: list[int] = []
        tap = Tap(
            tiny_model, lambda layer, *_: shown.append(layer) is None, reads_only=True, lags=True
        )
        for status in (0, 1):
            tap.begin(4, np.zeros(0, np.int32), 1)
            for tensor in tensors[:2]:
                for ask in (True, False):
                    tap._call(tensor.address, ask, 0)
                    backend.llama_cpp_waits()
            tap.end(status)
            assert not backend.waiting
        assert shown == [0, 1, 0]  # nothing of a pass that has failed

    @pytest.mark.parametrize("raises", [False, True])
    def test_nothing_is_being_copied_where_the_pass_ends(
        self, tiny_model: Model, tensors: list[Tensor], backend: Backend, raises: bool
    ) -> None:
        shown: list[int] = []

        def visit(layer: int, *_: object) -> bool:
            shown.append(layer)
            if raises:
                raise KeyError(layer)
            return False

        tap = Tap(tiny_model, visit, reads_only=True, lags=True)
        tap.begin(4, np.arange(4, dtype=np.int32), 1)
        answers = []
        for tensor in tensors[:2]:
            tap._call(tensor.address, True, 0)
            backend.llama_cpp_waits()
            answers.append(tap._call(tensor.address, False, 0))
        assert answers == [True, False]
        assert not backend.waiting
        assert not tap._call(tensors[2].address, True, 0)
        if raises:
            with pytest.raises(KeyError):
                tap.end(1)
        else:
            tap.end(1)
        assert shown == [0]


def test_a_tensor_in_no_buffer_is_an_error(tiny_model: Model, tensor: Tensor) -> None:
    tensor.forget_buffer()
    with pytest.raises(EngineError, match="lies in no buffer"):
        ggml.on_host(tensor.address)
    cartridge = Cartridge(
        Metadata("x"),
        tiny_model.fingerprint,
        (LayerMap.from_dense(0, np.arange(1), np.zeros((1, tiny_model.n_ff)), np.ones(1)),),
    )
    hook = SteeringHook(tiny_model, max_rows=4)
    hook.load(cartridge)
    hook.set_rows([(Dose(cartridge, 1.0),)] * 4)
    hook.begin(4, np.zeros(0, np.int32))
    hook.callback(tensor.address, False, hook.user_data)
    with pytest.raises(EngineError, match="lies in no buffer"):
        hook.end(1)


@pytest.mark.parametrize(
    ("gpu_layers", "has_device", "offload"),
    [(0, True, False), (-1, True, True), (3, True, True), (-1, False, False)],
)
def test_products_move_to_a_device_only_where_layers_do(
    tiny_path: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    gpu_layers: int,
    has_device: bool,
    offload: bool,
) -> None:
    """Of every context that is made, those that look at a model while it is loaded included."""
    asked = []
    init = llama_cpp.llama_init_from_model

    def spy(model: int, params: llama_cpp.llama_context_params) -> int:
        asked.append(bool(params.op_offload))
        return init(model, params)

    monkeypatch.setattr(llama_cpp, "llama_init_from_model", spy)
    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: has_device)
    with Model(str(tiny_path()), gpu_layers=gpu_layers) as model, Context(model, n_ctx=64):
        pass
    assert len(asked) >= 2
    assert set(asked) == {offload}


@pytest.mark.parametrize(
    ("gpu_layers", "has_device", "offered"),
    [(0, True, False), (-1, True, True), (-1, False, False)],
)
def test_a_model_on_the_processor_is_offered_no_device(
    tiny_path: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    gpu_layers: int,
    has_device: bool,
    offered: bool,
) -> None:
    """With one in reach, llama.cpp takes other kernels for layers on the processor too."""
    seen = []
    load = llama_cpp.llama_model_load_from_file

    def spy(path: bytes, params: llama_cpp.llama_model_params) -> int:
        listed = params.devices  # None: all there are
        first = ctypes.c_void_p.from_address(listed).value if listed else "all"
        seen.append(first is not None)
        return load(path, params)

    monkeypatch.setattr(llama_cpp, "llama_model_load_from_file", spy)
    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: has_device)
    Model(str(tiny_path()), gpu_layers=gpu_layers).close()
    assert seen == [offered]
