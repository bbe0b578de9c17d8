"""Which cartridges are in the runner, and which sequences still need them there."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacart.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llamacart.cartridge import Cartridge
    from llamacart_server.engine.runner_interface import Runner

logger = logging.getLogger(__name__)


@dataclass
class _Resident:
    cartridge: Cartridge
    wanted: bool = True
    uses: int = 0

    @property
    def unused(self) -> bool:
        return not self.wanted and not self.uses


class Residents:
    """Reference counts over cartridges, told apart by content hash.

    `load`, `unload` and `drop_unused` reach into the runner and belong to its thread;
    `acquire` and `release` may be called from any.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._lock = threading.Lock()
        self._residents: dict[str, _Resident] = {}

    def load(self, cartridge: Cartridge) -> None:
        """Make a cartridge usable; again does nothing, or undoes an unload that is pending."""
        key = cartridge.content_hash
        if key not in self._residents:
            self._runner.load(cartridge)
        with self._lock:
            self._residents.setdefault(key, _Resident(cartridge)).wanted = True

    def unload(self, cartridge: Cartridge) -> None:
        """Refuse the cartridge from now on, and drop it once no sequence uses it."""
        with self._lock:
            self._wanted(cartridge).wanted = False
        self.drop_unused()

    def drop_unused(self) -> None:
        """Take out of the runner what was unloaded and is in use no more.

        What the runner cannot let go of harms nobody: requests do not find it here, and loading
        it again finds it there.
        """
        with self._lock:
            dropped = [r for r in self._residents.values() if r.unused]
            for resident in dropped:
                del self._residents[resident.cartridge.content_hash]
        for resident in dropped:
            try:
                self._runner.unload(resident.cartridge)
            except Exception:
                logger.exception("cartridge %s keeps its memory", resident.cartridge.name)

    @property
    def has_unused(self) -> bool:
        """Whether `drop_unused` has something to do."""
        with self._lock:
            return any(r.unused for r in self._residents.values())

    def acquire(self, cartridges: Iterable[Cartridge]) -> None:
        """Count a use of each; raise `NotFoundError`, counting none, if one is not loaded."""
        with self._lock:
            for resident in [self._wanted(cartridge) for cartridge in cartridges]:
                resident.uses += 1

    def release(self, cartridges: Iterable[Cartridge]) -> None:
        """Take back an `acquire`."""
        with self._lock:
            for cartridge in cartridges:
                self._residents[cartridge.content_hash].uses -= 1

    def _wanted(self, cartridge: Cartridge) -> _Resident:
        resident = self._residents.get(cartridge.content_hash)
        if resident is None or not resident.wanted:
            raise NotFoundError(f"cartridge {cartridge.name!r} is not loaded", param="cartridges")
        return resident
