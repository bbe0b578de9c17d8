"""Where cartridge files come from: a folder, or an object store through fsspec."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from llamacart.disk.whole import has_suffix
from llamacart.errors import InputError
from llamacart.file.format import FILE_SUFFIX
from llamacart.llama.resolve import HF_PREFIX, cache_dir

if TYPE_CHECKING:
    from collections.abc import Mapping

_URL = re.compile(r"[a-z][a-z0-9+.-]*(::|://)")


class Source(Protocol):
    """A place with cartridge files, which may change while a server runs."""

    def look(self) -> Mapping[str, str]:
        """The `.gguf` files there are by name, each with a stamp that changes when the file does.

        Raises:
            InputError: The place is missing or cannot be listed.
        """
        ...

    def path(self, name: str, stamp: str) -> Path:
        """A local file with what `name` holds, fetched where that is needed.

        Raises:
            CartridgeError: It cannot be fetched; the message names it.
        """
        ...


class Folder:
    """A folder of this machine; its files are read where they are.

    Args:
        folder: The folder; folders in it are not entered.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __str__(self) -> str:
        return str(self._folder)

    def look(self) -> Mapping[str, str]:
        """See `Source.look`."""
        shown = repr(str(self._folder))
        if not self._folder.is_dir():
            raise InputError(f"cartridges folder {shown} is missing", param="cartridges")
        try:
            paths = sorted(p for p in self._folder.iterdir() if has_suffix(p, FILE_SUFFIX))
        except OSError as error:
            raise InputError(
                f"cartridges folder {shown} cannot be listed: {error.strerror or error}",
                param="cartridges",
            ) from None
        return {path.name: _stamp(path) for path in paths}

    def path(self, name: str, stamp: str) -> Path:
        """See `Source.path`."""
        del stamp
        return self._folder / name


def _stamp(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:  # a link to nothing, or a file that has just gone: whoever reads it says so
        return ""
    return f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"


def is_remote(spec: str) -> bool:
    """Whether `spec` names a store rather than a folder."""
    return spec.startswith(HF_PREFIX) or _URL.match(spec) is not None


def folder_of(spec: str | None) -> Path | None:
    """The folder that `spec` names; None where it names a store, or nothing."""
    return None if spec is None or is_remote(spec) else Path(spec)


def cartridges_cache() -> Path:
    """Folder for cartridges of stores."""
    return cache_dir() / "cartridges"


def open_source(spec: str, cache: Path, max_bytes: int) -> Source:
    """The place that a person names for cartridges.

    Args:
        spec: A folder, `hf:<owner>/<repo>[@<revision>][/<folder>]`, or a URL that fsspec knows:
            `s3://bucket/folder`, `gs://…`, `az://…`, `file:///…`, `memory://…`.
        cache: Folder for what is fetched; servers may share it.
        max_bytes: Largest file that is fetched.

    Raises:
        InputError: There is no such kind of store, or a package for it is missing.
    """
    folder = folder_of(spec)
    if folder is not None:
        return Folder(folder)
    from llamacart_server.library.remote import RemoteSource, tidy

    tidy(cache)
    url = spec
    if spec.startswith(HF_PREFIX) and not spec.startswith(f"{HF_PREFIX}//"):
        url = f"hf://{spec.removeprefix(HF_PREFIX)}"
    return RemoteSource(url, cache, max_bytes)
