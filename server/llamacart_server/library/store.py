"""Changes what a running server offers: its library, its engine and its folder together."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llamacart.disk.whole import has_suffix, sync_folder
from llamacart.errors import CartridgeError, InputError, LlamacartError
from llamacart.file.format import FILE_SUFFIX
from llamacart.file.reader import read_cartridge
from llamacart.file.texts import shown
from llamacart.file.writer import write_cartridge
from llamacart_server.errors import ConflictError, StorageError
from llamacart_server.library.library import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llamacart.cartridge import Cartridge
    from llamacart_server.engine.interface import EngineLike
    from llamacart_server.library.library import CartridgeLibrary

logger = logging.getLogger(__name__)


class CartridgeStore:
    """Adds and removes cartridges, one change at a time; its methods block.

    A change is whole or not at all: the engine takes the new cartridge first, then the folder,
    then the library; what the library no longer offers leaves the engine last. Requests that run
    keep it to their end; those that found it and have not reached the engine look again.

    Args:
        engine: Has every cartridge of `library` loaded.
        library: What requests look cartridges up in.
        folder: Where uploads are kept and paths lead; None means that uploads live in memory
            until the server stops, and that no path can be named.
    """

    def __init__(
        self, engine: EngineLike, library: CartridgeLibrary, folder: Path | None = None
    ) -> None:
        self._engine = engine
        self._library = library
        self._folder = None if folder is None else folder.resolve()
        self._lock = threading.Lock()
        # By the id that a file of the folder states, also once its cartridge is unloaded: an
        # upload must replace that file, for two with one id would stop the next start.
        self._files = {e.cartridge.name: e.file for e in library.snapshot if e.file is not None}

    @contextmanager
    def upload_path(self) -> Iterator[Path]:
        """A new path to write an upload to; what is still there at the end is deleted."""
        folder = self._folder or Path(tempfile.gettempdir())
        path = folder / f".llamacart-{secrets.token_hex(8)}.tmp"
        try:
            yield path
        finally:
            with suppress(OSError):
                path.unlink()

    def check_free(self, cartridge_id: str) -> None:
        """Raise `ConflictError` where no upload could be kept under an id."""
        if self._folder is not None:
            with self._lock:
                self._file_for(cartridge_id, self._folder)

    def add_upload(self, upload: Path, cartridge_id: str | None = None) -> tuple[Entry, bool]:
        """Check an uploaded file, move it into the folder and offer it.

        It becomes `<id>.gguf`, or replaces the file that has held this id.

        Args:
            upload: A path of `upload_path`, written.
            cartridge_id: A valid id to use, and to write into the file, instead of its own.

        Returns:
            What is on offer now, and whether it replaced another of its id.

        Raises:
            CartridgeError: The file is broken or made for another model.
            ConflictError: A file of that name, which no upload may replace, is in the folder.
            StorageError: The folder cannot be written.
        """
        cartridge = _read(upload, "the upload", None)
        folder = self._folder
        if cartridge_id is not None and cartridge_id != cartridge.name:
            cartridge = _called(cartridge, cartridge_id)
            if folder is not None:
                _rewrite(cartridge, upload)
        with self._lock:
            if folder is None:
                return self._offer(Entry(cartridge))
            name = self._file_for(cartridge.name, folder)

            def keep() -> None:
                _sync(upload)
                upload.replace(folder / name)
                sync_folder(folder)
                self._files[cartridge.name] = name

            return self._offer(Entry(cartridge, name), keep)

    def add_file(
        self,
        path: str,
        cartridge_id: str | None = None,
        *,
        replaces: bool = True,
        param: str = "path",
    ) -> tuple[Entry, bool]:
        """Offer a file of the folder.

        Args:
            path: Relative to the folder, or an absolute path in it.
            cartridge_id: A valid id to use instead of the file's own, until the server stops.
            replaces: Whether it may replace a cartridge of its id.
            param: The request field that holds `path`.

        Returns:
            As for `add_upload`.

        Raises:
            InputError: The path leads out of the folder, or there is no folder.
            NotFoundError: There is no such file.
            CartridgeError: The file is broken or made for another model, or its id is taken.
        """
        folder, name = self._confined(path, param)
        cartridge = _read(folder / name, shown(path), param)
        with self._lock:
            if "/" not in name:  # a start reads no folders in the folder
                self._files.setdefault(cartridge.name, name)
            if cartridge_id is not None:
                cartridge = _called(cartridge, cartridge_id)
            if not replaces and self._library.snapshot.find(cartridge.name) is not None:
                raise CartridgeError(
                    f"cartridge {cartridge.name!r} is already loaded; 'load_inplace' replaces it"
                )
            return self._offer(Entry(cartridge, name))

    def remove(self, cartridge_id: str, *, delete_file: bool = False) -> bool:
        """Offer a cartridge no longer.

        Args:
            cartridge_id: Which one.
            delete_file: Delete its file too, so that the next start does not load it.

        Returns:
            Whether a file was deleted.

        Raises:
            NotFoundError: There is no such cartridge.
            ConflictError: Another id has the file that is to be deleted.
            StorageError: The file cannot be deleted; the cartridge stays.
        """
        with self._lock:
            snapshot = self._library.snapshot
            entry = snapshot.entry(cartridge_id)
            remaining = snapshot.without(cartridge_id)
            deleted = False
            if delete_file and entry.file is not None and self._folder is not None:
                for other in remaining:
                    if other.file == entry.file:
                        raise ConflictError(
                            f"file {entry.file!r} also belongs to cartridge "
                            f"{other.cartridge.name!r}",
                            param="delete_file",
                        )
                deleted = self._delete(self._folder, entry.file)
            self._library.replace(remaining)
            self._retire(entry.cartridge)
        logger.info("cartridge %s removed%s", cartridge_id, " with its file" if deleted else "")
        return deleted

    def follow(self, file: str, cartridge: Cartridge | None) -> None:
        """Offer what a file of the source holds now in place of what it held.

        Another id under which the file is on offer stays, and has the new content.

        Args:
            file: Its name.
            cartridge: What it holds; None where it is gone.

        Raises:
            CartridgeError: Another file, or an upload, has its id.
            LlamacartError: The engine refuses it. What was on offer stays, as in the case above.
        """
        with self._lock:
            before = self._library.snapshot
            held = [entry for entry in before if entry.file == file]
            entries = []
            if cartridge is not None:
                if any(_same(entry.cartridge, cartridge) for entry in held):
                    return
                other = before.find(cartridge.name)
                if other is not None and other.file != file:
                    whose = "an upload" if other.file is None else other.file
                    raise CartridgeError(f"id {cartridge.name!r} is also that of {whose}")
                self._engine.load(cartridge)
                own = {i for i, name in self._files.items() if name == file} | {cartridge.name}
                ids = [cartridge.name, *(e.cartridge.name for e in held)]
                entries = [
                    Entry(_called(cartridge, i), file)
                    for i in dict.fromkeys(ids)
                    if i == cartridge.name or i not in own
                ]
            self._files = {i: name for i, name in self._files.items() if name != file}
            self._files |= {cartridge.name: file} if cartridge is not None else {}
            self._library.replace(before.with_file(file, entries))
            for old in {e.cartridge.content_hash: e.cartridge for e in held}.values():
                self._retire(old)
        now = "gone" if cartridge is None else f"{cartridge.name}, {cartridge.content_hash}"
        logger.info("cartridge file %s is now %s", file, now)

    # --- one change, under the lock -----------------------------------------------------------

    def _offer(self, entry: Entry, keep: Callable[[], None] = lambda: None) -> tuple[Entry, bool]:
        cartridge = entry.cartridge
        self._engine.load(cartridge)
        before = self._library.snapshot
        try:
            keep()
        except OSError as error:
            if not before.steers_with(cartridge):
                self._engine.unload(cartridge)
            raise _storage_error("write to", error) from error
        self._library.replace(before.with_entry(entry))
        replaced = before.find(cartridge.name)
        if replaced is not None:
            self._retire(replaced.cartridge)
        logger.info("cartridge %s is now %s", cartridge.name, cartridge.content_hash)
        return entry, replaced is not None

    def _retire(self, cartridge: Cartridge) -> None:
        if self._library.snapshot.steers_with(cartridge):
            return
        self._engine.unload(cartridge)

    def _file_for(self, cartridge_id: str, folder: Path) -> str:
        known = self._files.get(cartridge_id)
        if known is not None:
            return known
        path = folder / f"{cartridge_id}{FILE_SUFFIX}"
        if os.path.lexists(path):
            raise ConflictError(
                f"file {path.name!r} is in the folder already and is not known to hold "
                f"cartridge {cartridge_id!r}; load it by its path, or choose another id",
                param="id",
            )
        return path.name

    def _delete(self, folder: Path, name: str) -> bool:
        try:
            (folder / name).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _storage_error("delete from", error) from error
        self._files = {i: file for i, file in self._files.items() if file != name}
        return True

    def _confined(self, path: str, param: str) -> tuple[Path, str]:
        """The folder, and `path` relative to it, once it is sure that it leads nowhere else."""
        if self._folder is None:
            raise InputError(
                f"{param!r} cannot be used: the server has no cartridges folder (--cartridges)",
                param=param,
            )
        given = Path(path)
        try:
            target = (self._folder / given).resolve()
            inside = target.is_relative_to(self._folder)
        except (OSError, RuntimeError, ValueError):  # a loop of links, a null byte, no UTF-8
            inside = False
        if not inside or ".." in given.parts or not has_suffix(given, FILE_SUFFIX):
            raise InputError(
                f"{param!r} is {shown(path)}, which is not the path of a {FILE_SUFFIX} file in the "
                "cartridges folder",
                param=param,
            )
        relative = target.relative_to(self._folder) if given.is_absolute() else given
        return self._folder, relative.as_posix()


def _read(path: Path, label: str, param: str | None) -> Cartridge:
    try:
        return read_cartridge(path, label=label)
    except LlamacartError as error:
        error.param = param
        raise


def _same(one: Cartridge, other: Cartridge) -> bool:
    return one.content_hash == other.content_hash and one.metadata == other.metadata


def _called(cartridge: Cartridge, cartridge_id: str) -> Cartridge:
    return replace(cartridge, metadata=replace(cartridge.metadata, name=cartridge_id))


def _rewrite(cartridge: Cartridge, path: Path) -> None:
    try:
        write_cartridge(cartridge, path)
    except CartridgeError as error:  # it has been read, so the disk is at fault
        if isinstance(error.__cause__, OSError):
            raise _storage_error("write to", error.__cause__) from error
        raise


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _storage_error(verb: str, error: OSError) -> StorageError:
    return StorageError(f"cannot {verb} the cartridges folder: {error.strerror or error}")
