"""The cartridges that a server offers, which may change while requests look them up.

Readers see one `Snapshot`, which never changes; a change puts another in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacart.cartridge import check_fits
from llamacart.errors import (
    CartridgeError,
    CartridgeMismatchError,
    LlamacartError,
    NotFoundError,
)
from llamacart.file.reader import read_cartridge
from llamacart_server.library.source import Folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from llamacart.cartridge import Cartridge, Fingerprint
    from llamacart_server.library.source import Source


@dataclass(frozen=True)
class Entry:
    """A cartridge on offer.

    Attributes:
        cartridge: Its name is its id here, which need not be the one in its file.
        file: Where it was read from, relative to the cartridges folder; None if from elsewhere.
    """

    cartridge: Cartridge
    file: str | None = None


@dataclass(frozen=True)
class LeftOut:
    """A file of the cartridges folder that is not on offer.

    Attributes:
        file: Its path in the folder.
        reason: Why; it names no other path.
    """

    file: str
    reason: str


class Snapshot:
    """Cartridges by id at one moment, in the order of their ids; never changes.

    Args:
        entries: Each with an id of its own.

    Raises:
        CartridgeError: Two have one id.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._by_id: dict[str, Entry] = {}
        for entry in sorted(entries, key=lambda e: e.cartridge.name):
            name = entry.cartridge.name
            if name in self._by_id:
                raise CartridgeError(f"two cartridges have the id {name!r}")
            self._by_id[name] = entry

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._by_id.values())

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids, ascending."""
        return tuple(self._by_id)

    def find(self, cartridge_id: str) -> Entry | None:
        """The entry of that id, if there is one."""
        return self._by_id.get(cartridge_id)

    def entry(self, cartridge_id: str, *, param: str | None = None) -> Entry:
        """The entry of that id.

        Raises:
            NotFoundError: There is none; the message lists what there is, `param` says which
                request field asked for it.
        """
        try:
            return self._by_id[cartridge_id]
        except KeyError:
            there = ", ".join(map(repr, self._by_id)) or "none"
            raise NotFoundError(
                f"no cartridge {cartridge_id!r}; loaded cartridges: {there}", param=param
            ) from None

    def get(self, cartridge_id: str, *, param: str | None = None) -> Cartridge:
        """The cartridge of that id; errors as in `entry`."""
        return self.entry(cartridge_id, param=param).cartridge

    def steers_with(self, cartridge: Cartridge) -> bool:
        """Whether some entry, of whatever id, has the same content."""
        return any(e.cartridge.content_hash == cartridge.content_hash for e in self)

    def with_entry(self, entry: Entry) -> Snapshot:
        """What there is once `entry` is added, or has replaced the one of its id."""
        return Snapshot((self._by_id | {entry.cartridge.name: entry}).values())

    def with_file(self, file: str, entries: Iterable[Entry]) -> Snapshot:
        """What there is once a file's entries are these; errors as for a new `Snapshot`."""
        return Snapshot([*(e for e in self if e.file != file), *entries])

    def without(self, cartridge_id: str) -> Snapshot:
        """What there is without that id."""
        return Snapshot(e for e in self if e.cartridge.name != cartridge_id)


class CartridgeLibrary:
    """Cartridges by id, in the order of their ids; may be used and changed by any thread.

    Args:
        cartridges: Each with a name of its own.

    Attributes:
        left_out: Files of the folder that could not be used when it was read, and have not been
            put on offer since.
        seen: The files there were then, with their stamps (`Source.look`).

    Raises:
        CartridgeError: Two have one name.
    """

    def __init__(self, cartridges: Iterable[Cartridge] = ()) -> None:
        self._snapshot = Snapshot(Entry(cartridge) for cartridge in cartridges)
        self.left_out: tuple[LeftOut, ...] = ()
        self.seen: Mapping[str, str] = {}

    @classmethod
    def from_folder(
        cls, folder: Path, fingerprint: Fingerprint, *, force: bool = False, strict: bool = False
    ) -> CartridgeLibrary:
        """The same as `from_source` of a folder."""
        return cls.from_source(Folder(folder), fingerprint, force=force, strict=strict)

    @classmethod
    def from_source(
        cls, source: Source, fingerprint: Fingerprint, *, force: bool = False, strict: bool = False
    ) -> CartridgeLibrary:
        """Read every `*.gguf` file, `*.GGUF` too; what cannot be used is left out.

        Args:
            source: Where the files are.
            fingerprint: The model they must have been made for.
            force: Accept cartridges made for other weights of the same shape.
            strict: Leave nothing out.

        Raises:
            InputError: There is no such place, or it cannot be listed.
            LlamacartError: With `strict`: a file is broken, made for another model, or repeats an
                id; the message names the file.
        """
        seen = source.look()
        found: dict[str, Entry] = {}
        left_out = []
        for name, stamp in seen.items():
            try:
                path = source.path(name, stamp)
                cartridge = _read(path, name, fingerprint, found, force=force)
            except LlamacartError as error:
                if strict:
                    raise CartridgeError(f"{source}: {error.message}") from None
                left_out.append(LeftOut(name, error.message))
            else:
                found[cartridge.name] = Entry(cartridge, name)
        library = cls()
        library.replace(Snapshot(found.values()))
        library.left_out = tuple(left_out)
        library.seen = seen
        return library

    def __iter__(self) -> Iterator[Cartridge]:
        return (entry.cartridge for entry in self._snapshot)

    def __len__(self) -> int:
        return len(self._snapshot.ids)

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids, ascending."""
        return self._snapshot.ids

    @property
    def snapshot(self) -> Snapshot:
        """What there is now."""
        return self._snapshot

    def get(self, cartridge_id: str, *, param: str | None = None) -> Cartridge:
        """The cartridge of that id; errors as in `Snapshot.entry`."""
        return self._snapshot.get(cartridge_id, param=param)

    def replace(self, snapshot: Snapshot) -> None:
        """Offer what `snapshot` holds from now on."""
        before, self._snapshot = self._snapshot, snapshot
        files = {e.file for e in snapshot if before.find(e.cartridge.name) is not e}
        self.left_out = tuple(left for left in self.left_out if left.file not in files)


def _read(
    path: Path,
    name: str,
    fingerprint: Fingerprint,
    found: Mapping[str, Entry],
    *,
    force: bool,
) -> Cartridge:
    """A file, checked; errors name it without its folder."""
    cartridge = read_cartridge(path, label=name)
    try:
        check_fits(cartridge, fingerprint, force=force)
    except CartridgeMismatchError as error:
        raise CartridgeMismatchError(f"{name}: {error.message}") from None
    if cartridge.name in found:
        other = found[cartridge.name].file
        raise CartridgeError(f"{name}: id {cartridge.name!r} is also that of {other}")
    return cartridge
