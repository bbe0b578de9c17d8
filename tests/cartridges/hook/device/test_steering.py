"""Steering by ggml graphs on a backend, beside the compiled kernel on the host.

The processor is the device here: graphs, memory and patches are those of any other, and only the
arithmetic is its own. A device rounds rows to 8 bits before a product, so values may differ by a
hundredth of what a product's rows are long.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.errors import EngineError
from llamacart.hook.control import OUT_OF_RANGE, Field
from llamacart.hook.device.backend import Device, Memory, library
from llamacart.hook.device.steering import _KEPT_PLANS
from llamacart.hook.device.step import Step, StepShape
from llamacart.hook.steering_hook import SteeringHook
from llamacart.llama import ggml
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.matrix import FactoredMatrix
from llamacart.values.batch import Batch
from llamacart.values.report import StepReport
from llamacart.values.steering import Dose, Steering

ROUNDING = 0.01
LAYER = 1


def cartridge(model: Model, seed: int, *, n_active: int = 5, shift: bool = False) -> Cartridge:
    """A small random step at every layer but the first; of odd seeds, the map is in factors."""
    rng = np.random.default_rng(seed)
    layers = []
    for layer in range(1, model.n_layer):
        neurons = np.sort(rng.choice(model.n_ff, n_active, replace=False))
        weight = np.zeros((n_active, model.n_ff), np.float32)
        weight[np.arange(n_active), neurons] = 1
        if not shift:
            weight += rng.normal(size=weight.shape).astype(np.float32) * 0.03
        one = LayerMap.from_dense(layer, neurons, weight, rng.normal(size=n_active) * 0.3)
        if seed % 2:
            left, right = rng.normal(size=(n_active, 2)), rng.normal(size=(2, model.n_ff)) * 0.03
            one = replace(one, delta=FactoredMatrix.quantize(left, right))
        layers.append(one)
    return Cartridge(Metadata(f"c{seed}"), model.fingerprint, tuple(layers))


@contextmanager
def host_tensor(name: str, h: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """A ggml tensor in host memory with these values, and a view of them."""
    lib = library()
    lib.ggml_set_name.restype = ctypes.c_void_p
    lib.ggml_set_name.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    context = lib.ggml_init(ggml.InitParams(16384, None, True))
    address = lib.ggml_new_tensor_2d(context, llama_cpp.GGML_TYPE_F32, h.shape[1], h.shape[0])
    lib.ggml_set_name(address, name.encode())
    device = Device(0)
    memory = Memory(device, h.nbytes)
    lib.ggml_backend_tensor_alloc(memory.handle, address, memory.base)
    pointer = ctypes.cast(memory.base, ctypes.POINTER(ctypes.c_float))
    values = np.ctypeslib.as_array(pointer, h.shape)
    values[...] = h
    try:
        yield address, values
    finally:
        memory.close()
        device.close()
        lib.ggml_free(context)


def step(
    hook: SteeringHook, model: Model, h: np.ndarray, rows: list[Steering], layer: int = LAYER
) -> tuple[np.ndarray, StepReport]:
    """What a hook makes of h at a layer, all of whose rows have outputs, and its report."""
    with host_tensor(f"{model.site_node}-{layer}", h) as (address, values):
        hook.set_rows(rows, [True] * len(rows))
        hook.begin(len(h), np.arange(len(h), dtype=np.int32))
        hook.callback(address, True, hook.user_data)
        hook.callback(address, False, hook.user_data)
        hook.end(1)
        return values.copy(), hook.take_report()


def on_device(
    hook: SteeringHook, model: Model, h: np.ndarray, rows: list[Steering], layer: int = LAYER
) -> tuple[np.ndarray, StepReport]:
    """`step` after a first one, by which the hook learns where the layer lies."""
    step(hook, model, h, rows, layer)
    result = step(hook, model, h, rows, layer)
    assert hook.device is not None
    assert hook.device.ran[layer] or not any(rows)
    return result


def hooks(
    model: Model, cartridges: list[Cartridge], limit: float | None = None
) -> tuple[SteeringHook, SteeringHook]:
    """One that steers on the device, and one on the host."""
    made = (
        SteeringHook(model, max_rows=64, place="device", dose_limit=limit),
        SteeringHook(model, max_rows=64, place="host", dose_limit=limit),
    )
    for hook in made:
        for one in cartridges:
            hook.load(one)
    return made


def bound(h: np.ndarray, rows: list[Steering], layer: int = LAYER) -> np.ndarray:
    """Largest difference that rounding makes, by row [T, 1]."""
    scale = np.zeros((len(rows), 1))
    for i, steering in enumerate(rows):
        for dose in steering:
            for m in dose.cartridge.layers:
                if m.layer == layer:
                    longest = np.linalg.norm(m.dense_delta(h.shape[1]), axis=1).max()
                    scale[i] += abs(dose.alpha) * longest * np.linalg.norm(h[i])
    return ROUNDING * scale + 1e-6


@st.composite
def batches(draw: st.DrawFn) -> list[list[tuple[int, float]]]:
    """For each row, the cartridges that act on it, at most two, with their α."""
    n_rows = draw(st.sampled_from([1, 2, 5, 16, 17, 40]))
    own = st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([-0.5, 0.3, 1.0])),
        max_size=2,
        unique_by=lambda entry: entry[0],
    )
    if draw(st.booleans()):  # a prompt of one client among others
        return [draw(own)] * n_rows
    return draw(st.lists(own, min_size=n_rows, max_size=n_rows))


@settings(max_examples=25, deadline=None)
@given(batch=batches(), limit=st.sampled_from([None, 0.4]), last=st.booleans())
def test_a_step_is_what_the_kernel_makes_of_it(
    tiny_model: Model, batch: list[list[tuple[int, float]]], limit: float | None, last: bool
) -> None:
    cartridges = [cartridge(tiny_model, seed, shift=seed == 2) for seed in range(3)]
    device, host = hooks(tiny_model, cartridges, limit)
    rows: list[Steering] = [tuple(Dose(cartridges[i], a) for i, a in own) for own in batch]
    h = np.random.default_rng(len(batch)).normal(size=(len(batch), tiny_model.n_ff))
    h = h.astype(np.float32)
    layer = tiny_model.n_layer - 1 if last else LAYER
    there, told = on_device(device, tiny_model, h, rows, layer)
    here, said = step(host, tiny_model, h, rows, layer)
    assert (np.abs(there - here) <= bound(h, rows, layer)).all()
    touched = np.zeros(h.shape, bool)
    for i, steering in enumerate(rows):
        for dose in steering:
            for m in dose.cartridge.layers:
                touched[i, m.neurons] |= m.layer == layer
    np.testing.assert_array_equal(there[~touched], h[~touched])
    assert (there[touched] != h[touched]).any() or not touched.any()
    if any(rows):
        assert told.doses is not None
        assert said.doses is not None
        np.testing.assert_allclose(told.doses, said.doses, rtol=0.05)
        if limit is not None:
            near = {r for r in said.capped if np.nanmax(said.doses[r]) < 0.999 * limit}
            assert set(told.capped) - near == set(said.capped) - near


def test_alpha_changes_without_a_new_graph(tiny_model: Model) -> None:
    one = cartridge(tiny_model, 0)
    device, host = hooks(tiny_model, [one])
    h = np.random.default_rng(0).normal(size=(2, tiny_model.n_ff)).astype(np.float32)
    on_device(device, tiny_model, h, [(Dose(one, 0.5),)] * 2)
    graph = device._arrays[Field.PLAN][LAYER].copy()
    for alpha in (1.0, -2.0, 0.0):
        rows: list[Steering] = [(Dose(one, alpha),), (Dose(one, 0.1),)]
        there = step(device, tiny_model, h, rows)[0]
        here = step(host, tiny_model, h, rows)[0]
        assert (np.abs(there - here) <= bound(h, rows)).all()
        if alpha:
            np.testing.assert_array_equal(device._arrays[Field.PLAN][LAYER], graph)
        else:
            np.testing.assert_array_equal(there[0], h[0])


def test_another_cartridge_in_the_slot_of_one_that_left(tiny_model: Model) -> None:
    first, second = (cartridge(tiny_model, seed) for seed in (0, 1))
    device, host = hooks(tiny_model, [first])
    host.load(second)
    h = np.random.default_rng(0).normal(size=(3, tiny_model.n_ff)).astype(np.float32)
    on_device(device, tiny_model, h, [(Dose(first, 1.0),)] * 3)
    device.unload(first)
    device.load(second)
    rows: list[Steering] = [(Dose(second, 1.0),)] * 3
    there = step(device, tiny_model, h, rows)[0]
    assert device.device is not None
    assert device.device.ran[LAYER]
    assert (np.abs(there - step(host, tiny_model, h, rows)[0]) <= bound(h, rows)).all()


def test_many_compositions_do_not_pile_up(tiny_model: Model) -> None:
    one = cartridge(tiny_model, 0)
    device, _ = hooks(tiny_model, [one])
    for n_rows in range(1, _KEPT_PLANS + 5):
        h = np.zeros((n_rows, tiny_model.n_ff), np.float32)
        on_device(device, tiny_model, h, [(Dose(one, 1.0),)] * n_rows)
    assert device.device is not None
    assert len(device.device._plans) == _KEPT_PLANS


def test_nodes_are_made_once_for_all_layers_and_compositions(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joining, leaving and changing places costs a list of nodes, not new ones."""
    made: list[StepShape] = []

    class Counted(Step):
        def __init__(self, device: Device, width: int, shape: StepShape, limit: float | None):
            made.append(shape)
            super().__init__(device, width, shape, limit)

    monkeypatch.setattr("llamacart.hook.device.step.Step", Counted)
    cartridges = [cartridge(tiny_model, seed, n_active=5 + seed) for seed in range(0, 6, 2)]
    device, host = hooks(tiny_model, cartridges)
    h = np.random.default_rng(0).normal(size=(3, tiny_model.n_ff)).astype(np.float32)
    first, second, third = ((Dose(one, 1.0),) for one in cartridges)
    on_device(device, tiny_model, h, [first, second, third])
    assert len(made) == 3
    batches: list[list[Steering]] = [
        [third, first, second],
        [second, (), first],
        [(), third],
        [first],
    ]
    for rows in batches:
        own = h[: len(rows)]
        there = on_device(device, tiny_model, own, rows)[0]
        assert (np.abs(there - step(host, tiny_model, own, rows)[0]) <= bound(own, rows)).all()
    assert len(made) == 3


def test_a_row_out_of_range_stays_finite_and_is_told_of(tiny_model: Model) -> None:
    bias = np.array([1e30, 1.0], np.float32)
    wild = Cartridge(
        Metadata("wild"),
        tiny_model.fingerprint,
        (LayerMap(LAYER, np.array([3, 5], np.int32), None, bias),),
    )
    calm = cartridge(tiny_model, 0)
    device, host = hooks(tiny_model, [wild, calm])
    h = np.random.default_rng(0).normal(size=(2, tiny_model.n_ff)).astype(np.float32)
    rows: list[Steering] = [(Dose(wild, 10.0), Dose(calm, 0.1)), (Dose(calm, 1.0),)]
    there, told = on_device(device, tiny_model, h, rows)
    _, said = step(host, tiny_model, h, rows)
    assert np.abs(there).max() <= OUT_OF_RANGE
    assert told.faults == said.faults != {}
    assert (np.abs(there[1] - step(host, tiny_model, h, rows)[0][1]) <= bound(h, rows)[1]).all()


def test_a_device_that_lacks_an_operation_is_left(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Device, "supports", lambda *_: False)
    one = cartridge(tiny_model, 0)
    device, host = hooks(tiny_model, [one])
    h = np.random.default_rng(0).normal(size=(2, tiny_model.n_ff)).astype(np.float32)
    rows: list[Steering] = [(Dose(one, 1.0),)] * 2
    expected = step(host, tiny_model, h, rows)[0]
    with caplog.at_level(logging.WARNING, "llamacart"):
        for _ in range(3):
            np.testing.assert_array_equal(step(device, tiny_model, h, rows)[0], expected)
    assert len(caplog.records) == 1
    assert "does not compute" in caplog.text
    assert device.device is not None
    assert device.device.refused


def test_a_failure_of_the_device_is_an_error(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = cartridge(tiny_model, 0)
    device, _ = hooks(tiny_model, [one])
    h = np.zeros((1, tiny_model.n_ff), np.float32)
    on_device(device, tiny_model, h, [(Dose(one, 1.0),)])
    ABORT = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)
    abort = ABORT(lambda _data: True)
    backend = device._arrays[Field.PLAN][LAYER][1]
    set_abort = library().ggml_backend_cpu_set_abort_callback
    set_abort.argtypes, set_abort.restype = [ctypes.c_void_p, ABORT, ctypes.c_void_p], None
    set_abort(int(backend), abort, None)
    with pytest.raises(EngineError, match="the device failed to compute"):
        step(device, tiny_model, h, [(Dose(one, 1.0),)])


@pytest.mark.parametrize("n_ubatch", [None, 8])
def test_a_model_is_steered_there_as_on_the_host(tiny_model: Model, n_ubatch: int | None) -> None:
    cartridges = [cartridge(tiny_model, seed) for seed in range(2)]
    rows = [(3 + i, i, 0, i % 3 == 0) for i in range(20)]
    steering: list[Steering] = [
        (Dose(cartridges[0], 0.5),) if i % 2 else (Dose(cartridges[1], 0.5),) for i in range(20)
    ]
    logits = {}
    for hook in hooks(tiny_model, cartridges):
        with Context(tiny_model, n_ctx=64, n_batch=32, n_ubatch=n_ubatch, hook=hook) as context:
            for _ in range(2):
                context.clear()
                hook.set_rows(steering)
                context.decode(Batch(*map(list, zip(*rows, strict=True))))
            stops, copied = hook.traffic
            assert stops == (tiny_model.n_layer - 1) * (1 if n_ubatch is None else 3)
            # Rows that lie on a device come to the host where it steers: without a hook for
            # devices, and in batches of several ubatches, which no context of ours has.
            there = hook.device is not None and n_ubatch is None
            assert (copied == 0) == (there or not tiny_model.uses_device)
            assert hook.waits == 0  # llama.cpp's own backend computes the graphs
            logits[hook.device is None] = np.array([context.logits(i) for i in range(0, 20, 3)])
    scale = np.abs(logits[True]).max()
    np.testing.assert_allclose(logits[False], logits[True], atol=0.02 * scale)
    assert (logits[False] != logits[True]).any() == (n_ubatch is None)


def test_a_llama_cpp_whose_backends_cannot_be_asked_for(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ggml.scheduler_getter()
    one = cartridge(tiny_model, 0)
    logits = []
    for known in (True, False):
        if not known:
            monkeypatch.setattr(ggml, "scheduler_getter", lambda: 0)
        hook = SteeringHook(tiny_model, max_rows=1, place="device")
        hook.load(one)
        with Context(tiny_model, n_ctx=8, n_batch=1, n_threads=1, hook=hook) as context:
            for position in range(2):
                hook.set_rows([(Dose(one, 1.0),)])
                context.decode(Batch([5], [position], [0], [True]))
            assert hook.traffic[0] == tiny_model.n_layer - 1
            assert hook.waits == (0 if known else tiny_model.n_layer - 1)
            logits.append(context.logits(0).copy())
    np.testing.assert_array_equal(logits[0], logits[1])
