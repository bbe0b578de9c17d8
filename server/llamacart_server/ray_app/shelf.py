"""The cartridges that a replica could have, and those that it has; requests hold what they use."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING

from llamacart.errors import ModelNotFoundError
from llamacart.file.reader import read_cartridge

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llamacart_server.library.source import Source
    from llamacart_server.library.store import CartridgeStore


class Shelf:
    """Loads cartridges when they are asked for; its methods block and may be called by any thread.

    The id of a cartridge is its file's name without the ending: a listing must do, for what is
    inside the files is only known once they are fetched.

    Args:
        source: Where the files are; None: there are none.
        store: Offers them.
    """

    def __init__(self, source: Source | None, store: CartridgeStore) -> None:
        self._source = source
        self._store = store
        self._lock = threading.Lock()
        self._files: dict[str, tuple[str, str]] = {}
        self._held: dict[str, tuple[str, str]] = {}
        # Apart, for a request must not wait while another one's cartridge is fetched.
        self._counting = threading.Lock()
        self._uses: Counter[str] = Counter()
        self._loads: Counter[str] = Counter()
        self._evicted: set[str] = set()
        self.look()

    @property
    def ids(self) -> list[str]:
        """What there is, by the last look."""
        return list(self._files)

    def look(self) -> None:
        """Look which files there are; a cartridge that has changed is loaded anew when next used.

        Raises:
            InputError: They cannot be listed; everything stays.
        """
        if self._source is not None:
            seen = self._source.look()
            self._files = {PurePath(name).stem: (name, stamp) for name, stamp in seen.items()}

    def load(self, cartridge_id: str) -> None:
        """Have a cartridge on offer.

        Raises:
            ModelNotFoundError: There is none.
            CartridgeError: It cannot be fetched, is broken or made for another model.
        """
        file = self._files.get(cartridge_id)
        if file is None or self._source is None:
            raise ModelNotFoundError(
                f"no cartridge {cartridge_id!r}; GET /v1/models lists the {len(self._files)} "
                "there are",
                param="model",
            )
        with self._lock:
            with self._counting:
                self._evicted.discard(cartridge_id)
            if self._held.get(cartridge_id) == file:
                return
            name, stamp = file
            cartridge = read_cartridge(self._source.path(name, stamp), label=name)
            metadata = replace(cartridge.metadata, name=cartridge_id)
            self._store.follow(name, replace(cartridge, metadata=metadata))
            self._held[cartridge_id] = file
            self._loads[cartridge_id] += 1

    def evict(self, cartridge_id: str) -> None:
        """Let go of a cartridge, once no request holds it."""
        self.evict_at_release(cartridge_id)
        with self._lock:
            self._drop()

    def evict_at_release(self, cartridge_id: str) -> None:
        """Let go of a cartridge once the next request ends, as `evict` would; does not block."""
        with self._counting:
            self._evicted.add(cartridge_id)

    def use(self, ids: Iterable[str]) -> Use:
        """Hold cartridges from before they are loaded until `Use.end`."""
        held = Counter(ids)
        with self._counting:
            self._uses.update(held)
        return Use(self, held)

    def release(self, held: Counter[str]) -> None:
        """Undo a `use`."""
        with self._counting:
            self._uses.subtract(held)
            due = any(not self._uses[i] for i in self._evicted)
        if due:
            with self._lock:
                self._drop()

    def n_loads(self, cartridge_id: str) -> int:
        """How often a cartridge has been loaded."""
        return self._loads[cartridge_id]

    def _drop(self) -> None:
        with self._counting:
            dropped = {i for i in self._evicted if not self._uses[i]}
            self._evicted -= dropped
        for cartridge_id in dropped:
            file = self._held.pop(cartridge_id, None)
            if file is not None:
                self._store.follow(file[0], None)


class Use:
    """Cartridges that a request holds."""

    def __init__(self, shelf: Shelf, held: Counter[str]) -> None:
        self._shelf = shelf
        self._held = held

    def end(self) -> None:
        """Hold them no longer; blocks where one has been evicted meanwhile."""
        self._shelf.release(self._held)
