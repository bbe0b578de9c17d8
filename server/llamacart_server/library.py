"""The cartridges that a server offers: a folder of files, read once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacart.errors import (
    CartridgeError,
    CartridgeMismatchError,
    InputError,
    NotFoundError,
)
from llamacart.hook import check_fits
from llamacart.reader import read_cartridge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from llamacart.cartridge import Cartridge, Fingerprint


class CartridgeLibrary:
    """Cartridges by id, in the order of their ids.

    Args:
        cartridges: Each with a name of its own.

    Raises:
        CartridgeError: Two have one name.
    """

    def __init__(self, cartridges: Iterable[Cartridge] = ()) -> None:
        self._by_id: dict[str, Cartridge] = {}
        for cartridge in sorted(cartridges, key=lambda c: c.name):
            if cartridge.name in self._by_id:
                raise CartridgeError(f"two cartridges have the id {cartridge.name!r}")
            self._by_id[cartridge.name] = cartridge

    @classmethod
    def from_folder(
        cls, folder: Path, fingerprint: Fingerprint, *, force: bool = False
    ) -> CartridgeLibrary:
        """Read every `*.gguf` file of a folder.

        Args:
            folder: The folder; folders in it are not entered.
            fingerprint: The model they must have been made for.
            force: Accept cartridges made for other weights of the same shape.

        Raises:
            InputError: There is no such folder.
            CartridgeError: A file is broken, made for another model, or repeats an id; the
                message names the file.
        """
        if not folder.is_dir():
            raise InputError(f"cartridges folder {str(folder)!r} is not there", param="cartridges")
        found: dict[str, tuple[Path, Cartridge]] = {}
        for path in sorted(folder.glob("*.gguf")):
            cartridge = read_cartridge(path)
            try:
                check_fits(cartridge, fingerprint, force=force)
            except CartridgeMismatchError as error:
                raise CartridgeMismatchError(f"{path}: {error.message}") from None
            if cartridge.name in found:
                other = found[cartridge.name][0]
                raise CartridgeError(f"{path}: id {cartridge.name!r} is also that of {other}")
            found[cartridge.name] = (path, cartridge)
        return cls(cartridge for _, cartridge in found.values())

    def __iter__(self) -> Iterator[Cartridge]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids, ascending."""
        return tuple(self._by_id)

    def get(self, cartridge_id: str, *, param: str | None = None) -> Cartridge:
        """The cartridge of that id.

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
