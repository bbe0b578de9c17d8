"""Which graphs steer the next batch on a device, and what they have told of the last one."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import EngineError
from llamacart.hook.control import PLAN_FIELDS, PlanField
from llamacart.hook.device.backend import Device
from llamacart.hook.device.cache import CartridgeCache, hold
from llamacart.hook.device.composition import Composition, compose
from llamacart.hook.device.plan import Plan, Told
from llamacart.hook.device.step import StepCache

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from llamacart.cartridge import Cartridge
    from llamacart.hook.device.residents import DeviceCartridge

_log = logging.getLogger("llamacart.device")

_KEPT_PLANS = 8
"""Compositions whose graphs stay: of each a batch that decodes and the prompts that join it."""

_KEPT_BYTES = 2**28
"""Bytes of a device that graphs which stay may take; those of the batch at hand always stay."""


class DeviceSteering:
    """Cartridges and graphs on the devices that hold a model's layers.

    Which device holds a layer is learnt from the tensors that the callback meets (`learn`). Until
    then, and where a device cannot do it, the hook copies the layer's rows to the host.

    Args:
        width: D.
        n_layer: L.
        limit: The dose limit, or None.
    """

    def __init__(self, width: int, n_layer: int, limit: float | None) -> None:
        self._width, self._n_layer, self._limit = width, n_layer, limit
        self._devices: dict[int, Device] = {}
        self._layers: dict[int, int] = {}
        self._loaded: dict[int, Cartridge] = {}
        self._cache = CartridgeCache()
        self._steps: dict[int, StepCache] = {}
        self._said_no_room = False
        self._plans: OrderedDict[tuple[Composition, Composition], dict[int, Plan]] = OrderedDict()
        self._now: dict[int, Plan] = {}
        self.table = np.zeros((n_layer, PLAN_FIELDS), np.int64)
        """What the compiled callback runs at each layer, by `PlanField`."""
        self.ran = np.zeros(n_layer, np.uint8)
        """Layers whose graph ran in this batch."""
        self._n_bytes = 0
        self.refused: str | None = None
        """Why rows are copied to the host, if a device could not do it."""

    @property
    def knows(self) -> bool:
        """Whether some layer's device is known and usable."""
        return bool(self._layers) and self.refused is None

    @property
    def n_bytes(self) -> int:
        """Memory on devices that cartridges and graphs take, as of the last change."""
        return self._n_bytes

    @property
    def device_names(self) -> list[str]:
        """Names of the devices that steer."""
        return [device.name for device in self._devices.values()]

    def learn(self, layer: int, key: int) -> None:
        """Say which device holds a layer's tensor, by `device_of` its buffer."""
        if self.refused is not None or self._layers.get(layer) == key:
            return
        try:
            if key not in self._devices:
                self._devices[key] = Device(key)
                self._cache.budget(self._devices[key])  # of what is free now
                _log.debug("steering runs on device %s", self._devices[key].name)
        except EngineError as error:
            self._refuse(error)
            return
        self._layers[layer] = key
        self._forget_plans()
        for slot in self._loaded:
            self._cache.drop(slot, key)
        self._count()

    def load(self, slot: int, cartridge: Cartridge) -> None:
        """Note a cartridge, and copy it to the devices that are known and have room."""
        self._loaded[slot] = cartridge
        for device in self._devices.values():
            self._on_device(slot, device, self._loaded)
        self._count()

    def unload(self, slot: int) -> None:
        """Free what a cartridge has on devices."""
        self._loaded.pop(slot, None)
        self._forget_plans(slot)
        for key in self._devices:
            self._cache.drop(slot, key)
        self._count()

    def choose(
        self,
        rows: Sequence[Iterable[tuple[int, float]]],
        output_rows: Sequence[int],
    ) -> None:
        """Fill the table for a batch.

        Args:
            rows: Slot and α of what acts on each row.
            output_rows: The rows that the last layer holds, in order.
        """
        self.table[:] = 0
        self._now = {}
        if not self.knows:
            return
        whole, alphas = compose(rows)
        last, last_alphas = compose([rows[row] for row in output_rows])
        key = whole, last
        try:
            plans = self._plans.get(key)
            if plans is None:
                plans = self._plans[key] = self._make(whole, last)
                self._count()
            self._plans.move_to_end(key)
            while len(self._plans) > _KEPT_PLANS or self._keeps_too_much():
                _close(self._plans.popitem(last=False)[1])
                self._count()
            # Where all rows have outputs both are one composition, with one α for each entry.
            for plan in plans.values():
                plan.set_alphas({last: last_alphas, whole: alphas})
        except EngineError as error:
            self._refuse(error)
            return
        self._now = plans
        for device, plan in plans.items():
            for layer, graph in plan.graphs.items():
                self._enter(layer, device, plan, graph)

    def _enter(self, layer: int, device: int, plan: Plan, graph: int) -> None:
        row = self.table[layer]
        row[PlanField.GRAPH] = graph
        row[PlanField.BACKEND] = self._devices[device].backend
        row[PlanField.DEVICE] = device
        row[PlanField.HANDLE] = self._devices[device].handle
        row[PlanField.N_ROWS] = plan.compositions[layer].n_rows
        row[PlanField.N_PATCHES] = len(plan.patches[layer])
        row[PlanField.PATCHES] = plan.patches[layer].ctypes.data

    def told(self) -> list[Told]:
        """What the graphs that ran in this batch did, device by device."""
        told = (plan.told() for plan in self._now.values()) if self.ran.any() else ()
        return [own.at(self.ran[own.layer] != 0) for own in told if own is not None]

    def _make(self, whole: Composition, last: Composition) -> dict[int, Plan]:
        """Graphs by device; none for a device that has no room for all cartridges at once."""
        plans: dict[int, Plan] = {}
        try:
            for key, device in self._devices.items():
                own = [layer for layer, held in self._layers.items() if held == key]
                compositions = {
                    layer: last if layer == self._n_layer - 1 else whole for layer in own
                }
                slots = {run.slot for c in compositions.values() for run in c.runs}
                on_device: dict[int, DeviceCartridge] = {}
                for slot in slots:
                    found = self._on_device(slot, device, slots)
                    if found is None:
                        self._say_no_room(device)
                        break
                    on_device[slot] = found
                else:
                    plans[key] = self._plan(device, compositions, on_device)
        except BaseException:
            _close(plans)
            raise
        return plans

    def _plan(
        self,
        device: Device,
        compositions: Mapping[int, Composition],
        on_device: Mapping[int, DeviceCartridge],
    ) -> Plan:
        steps = self._steps.get(device.key)
        if steps is None:
            steps = self._steps[device.key] = StepCache(device, self._width, self._limit)
        limited = self._limit is not None
        return Plan(device, self._width, compositions, on_device, steps, limited=limited)

    def _on_device(
        self, slot: int, device: Device, needed: Collection[int]
    ) -> DeviceCartridge | None:
        own = [layer for layer, held in self._layers.items() if held == device.key]
        loaded = slot, self._loaded[slot]
        found, left = hold(self._cache, device, loaded, own, needed)
        for other in left:
            self._forget_plans(other)
        return found

    def _keeps_too_much(self) -> bool:
        kept = [plan for plans in self._plans.values() for plan in plans.values()]
        return len(self._plans) > 1 and sum(plan.n_bytes for plan in kept) > _KEPT_BYTES

    def _count(self) -> None:
        plans = (plan.n_bytes for plans in self._plans.values() for plan in plans.values())
        self._n_bytes = self._cache.n_bytes + sum(plans)

    def _say_no_room(self, device: Device) -> None:
        if not self._said_no_room:
            self._said_no_room = True
            _log.warning(
                "the cartridges of one step take more than %d MiB of device %s: its rows are "
                "copied to the host and back",
                self._cache.budget(device) >> 20,
                device.name,
            )

    def _forget_plans(self, slot: int | None = None) -> None:
        """Free all graphs, or those in which a slot acts."""
        self.table[:] = 0
        self._now = {}
        for key in list(self._plans):
            if slot is None or any(run.slot == slot for c in key for run in c.runs):
                _close(self._plans.pop(key))

    def _refuse(self, error: EngineError) -> None:
        _log.warning("%s; rows are copied to the host instead", error)
        self.close()
        self.refused = str(error)

    def close(self) -> None:
        """Free all that lies on devices."""
        self._forget_plans()
        self._cache.clear()
        self._count()
        for device in self._devices.values():
            device.close()
        self._devices, self._layers, self._steps = {}, {}, {}


def _close(plans: Mapping[int, Plan]) -> None:
    for plan in plans.values():
        plan.close()
