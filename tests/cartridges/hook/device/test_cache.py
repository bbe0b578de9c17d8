"""Where a device has room for some cartridges only; the processor is the device."""

import logging

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.errors import EngineError
from llamacart.hook.device import residents
from llamacart.hook.device.backend import Device, Memory
from llamacart.hook.device.cache import SHARE
from llamacart.hook.device.residents import DeviceCartridge
from llamacart.hook.device.steering import _KEPT_BYTES, DeviceSteering
from llamacart.hook.steering_hook import SteeringHook
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.values.batch import Batch
from llamacart.values.steering import Dose, Steering


def cartridge(model: Model, seed: int) -> Cartridge:
    rng = np.random.default_rng(seed)
    neurons = np.arange(4, dtype=np.int32)
    weight = rng.normal(size=(4, model.n_ff)).astype(np.float32) * 0.03
    return Cartridge(
        Metadata(f"c{seed}"),
        model.fingerprint,
        tuple(LayerMap.from_dense(i, neurons, weight, np.ones(4)) for i in range(model.n_layer)),
    )


@pytest.fixture
def size(host_model: Model) -> int:
    """Bytes that a cartridge takes on the device."""
    device = Device(0)
    made = DeviceCartridge(device, cartridge(host_model, 0), range(host_model.n_layer))
    needed = made.n_bytes
    made.place()
    assert made.n_bytes == needed > 0
    made.close()
    device.close()
    return needed


def room_for(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    monkeypatch.setattr(Device, "free_memory", lambda _: int(n_bytes / SHARE) + 1)


class Server:
    """A context whose hook has some cartridges, and steps of a few rows."""

    def __init__(self, model: Model, loaded: list[Cartridge], place: str = "device") -> None:
        self.hook = SteeringHook(model, max_rows=4, place=place)  # type: ignore[arg-type]
        for one in loaded:
            self.hook.load(one)
        self._context = Context(model, n_ctx=64, n_batch=4, n_threads=1, hook=self.hook)

    def step(self, rows: list[Steering]) -> np.ndarray:
        """Logits of the last row."""
        n = len(rows)
        self._context.clear()
        self.hook.set_rows(rows)
        outputs = [i == n - 1 for i in range(n)]
        self._context.decode(Batch(list(range(3, 3 + n)), list(range(n)), [0] * n, outputs))
        return self._context.logits(n - 1).copy()

    @property
    def device(self) -> DeviceSteering:
        assert self.hook.device is not None
        return self.hook.device


def test_those_used_least_recently_leave_and_come_back(
    host_model: Model, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = [cartridge(host_model, seed) for seed in range(4)]
    uses: list[Steering] = [(Dose(loaded[i], 1.0),) for i in (0, 1, 2, 0, 3, 1, 0)]
    roomy = Server(host_model, loaded)
    roomy.step(uses[:1])
    room_for(monkeypatch, 2 * size)
    tight = Server(host_model, loaded)
    tight.step(uses[:1])
    for rows in ([use] for use in uses):
        np.testing.assert_array_equal(tight.step(rows), roomy.step(rows))
        assert 0 < tight.device._cache.n_bytes <= 2 * size
    assert tight.device.ran.all()
    assert roomy.device._cache.n_bytes == 4 * size
    assert tight.device.n_bytes > tight.device._cache.n_bytes  # graphs count too
    for one in loaded:
        tight.hook.unload(one)
    assert tight.device.n_bytes == 0


def test_what_has_no_room_at_once_is_copied_to_the_host(
    host_model: Model,
    size: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loaded = [cartridge(host_model, seed) for seed in range(2)]
    room_for(monkeypatch, size)
    server = Server(host_model, loaded)
    host = Server(host_model, loaded, "host")
    first, second = ((Dose(one, 1.0),) for one in loaded)
    server.step([first])
    with caplog.at_level(logging.WARNING, "llamacart"):
        for _ in range(2):
            both = [first, second]
            np.testing.assert_array_equal(server.step(both), host.step(both))
            assert not server.device.ran.any()
    assert [r.getMessage() for r in caplog.records if "take more than" in r.getMessage()]
    assert len(caplog.records) == 1
    server.step([first])
    assert server.device.ran.all()


def test_a_device_with_less_room_than_it_says(
    host_model: Model, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Memory] = []

    class Scarce(Memory):
        def __init__(self, device: Device, n_bytes: int) -> None:
            if n_bytes == size and any(memory.handle for memory in taken):
                raise EngineError("there is no room")
            super().__init__(device, n_bytes)
            if n_bytes == size:
                taken.append(self)

    monkeypatch.setattr(residents, "Memory", Scarce)
    loaded = [cartridge(host_model, seed) for seed in range(2)]
    server = Server(host_model, loaded)
    for one in [loaded[0], loaded[0], loaded[1], loaded[0]]:
        server.step([(Dose(one, 1.0),)])
        assert server.device.refused is None
    assert server.device.ran.all()
    assert server.device._cache.n_bytes == size


def test_graphs_of_large_batches_do_not_pile_up(
    host_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _KEPT_BYTES > 0
    monkeypatch.setattr("llamacart.hook.device.steering._KEPT_BYTES", 1)
    one = cartridge(host_model, 0)
    server = Server(host_model, [one])
    for n_rows in (1, 1, 2, 3):
        server.step([(Dose(one, 1.0),)] * n_rows)
    assert server.device.ran.all()
    assert len(server.device._plans) == 1
