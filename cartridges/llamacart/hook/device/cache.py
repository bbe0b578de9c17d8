"""Cartridges that lie on devices; those used least recently leave where there is no room."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

from llamacart.errors import EngineError
from llamacart.hook.device.residents import DeviceCartridge

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from llamacart.cartridge import Cartridge
    from llamacart.hook.device.backend import Device

SHARE = 0.5
"""Of the memory that a device has free when it is first met, what cartridges may take."""


class CartridgeCache:
    """Copies of cartridges on devices, which are made anew from the host's where they had to leave.

    Each is known by its slot and its device's key.
    """

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[int, int], DeviceCartridge] = OrderedDict()
        self._budgets: dict[int, int] = {}
        self._taken: Counter[int] = Counter()

    @property
    def n_bytes(self) -> int:
        """What all of them take."""
        return self._taken.total()

    def budget(self, device: Device) -> int:
        """Most bytes of a device that they may take."""
        return self._budgets.setdefault(device.key, int(SHARE * device.free_memory()))

    def get(self, slot: int, device: Device) -> DeviceCartridge | None:
        """A cartridge, if it is there, which counts as its latest use."""
        found = self._held.get((slot, device.key))
        if found is not None:
            self._held.move_to_end((slot, device.key))
        return found

    def put(
        self, slot: int, device: Device, cartridge: Cartridge, layers: Sequence[int]
    ) -> DeviceCartridge | None:
        """Copy a cartridge's layers to a device, if there is room.

        Raises:
            EngineError: The device has less memory than it said.
        """
        made = DeviceCartridge(device, cartridge, layers)
        try:
            if self._taken[device.key] + made.n_bytes > self.budget(device):
                made.close()
                return None
            made.place()
        except BaseException:
            made.close()
            raise
        self._held[slot, device.key] = made
        self._taken[device.key] += made.n_bytes
        return made

    def make_room(self, device: Device, needed: Collection[int]) -> int | None:
        """Drop what was used least recently, of what is not needed.

        Returns:
            The slot that it was in; None where there was nothing to drop.
        """
        for slot, key in self._held:
            if key == device.key and slot not in needed:
                self.drop(slot, key)
                return slot
        return None

    def drop(self, slot: int, key: int) -> None:
        """Free what a cartridge has on a device, if anything."""
        dropped = self._held.pop((slot, key), None)
        if dropped is not None:
            self._taken[key] -= dropped.n_bytes
            dropped.close()

    def clear(self) -> None:
        """Free all."""
        for slot, key in list(self._held):
            self.drop(slot, key)


def hold(
    cache: CartridgeCache,
    device: Device,
    loaded: tuple[int, Cartridge],
    layers: Sequence[int],
    needed: Collection[int],
) -> tuple[DeviceCartridge | None, list[int]]:
    """A cartridge on a device, in the place of others if need be.

    Args:
        cache: Where it is kept.
        device: Where it is to lie.
        loaded: Its slot and it.
        layers: Those that the device computes.
        needed: Slots that may not leave.

    Returns:
        It, or None where there is no room even so; and the slots that have left.
    """
    slot, cartridge = loaded
    found = cache.get(slot, device)
    left: list[int] = []
    while found is None:
        try:
            found = cache.put(slot, device, cartridge, layers)
        except EngineError:
            found = None
        if found is None:
            gone = cache.make_room(device, needed)
            if gone is None:
                return None, left
            left.append(gone)
    return found, left
