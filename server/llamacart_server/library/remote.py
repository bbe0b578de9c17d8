"""Cartridge files of an object store, kept on this machine under the hash of their bytes."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llamacart.disk.whole import has_suffix, sync_folder, write_whole
from llamacart.errors import CartridgeError, InputError
from llamacart.file.format import FILE_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

STRONG = ("ETag", "etag", "blob_id", "md5Hash", "content_md5", "crc32c", "generation")
"""What stores say of a file that changes with its bytes alone."""
WEAK = ("LastModified", "last_modified", "updated", "mtime", "modified", "created", "ino")
"""What they say otherwise."""
KEEP_SECONDS = 30 * 24 * 3600
"""How long a file of the cache stays that no server has asked for."""
PART_SECONDS = 24 * 3600
"""How long what a killed server was fetching stays."""


@dataclass(frozen=True)
class _Known:
    """What a file of the store was when it was fetched."""

    stamp: str
    sha256: str


class RemoteSource:
    """Files of one folder of a store that fsspec knows; folders in it are not entered.

    A file is fetched only where its stamp, the store's ETag or else time and size, is not the one
    with which it was fetched last. Of a store that says neither, every look fetches every file.

    Servers may share the cache: its files are named by their SHA-256, and are written under
    another name first. The list of what was fetched is replaced whole; where two servers write it
    at once, one's news are lost, and a file is fetched once more.

    Args:
        url: Address of the folder.
        cache: Folder to keep files in; made where it is missing.
        max_bytes: Largest file that is fetched.

    Raises:
        InputError: There is no such kind of store, a package for it is missing, or the address
            holds a password.
    """

    def __init__(self, url: str, cache: Path, max_bytes: int) -> None:
        if urlsplit(url).password is not None:  # it would be in logs, and in --print-config
            raise InputError(
                "cartridges has a password in its address; give it where the store's package "
                "looks for it, such as the environment",
                param="cartridges",
            )
        self._url = url
        self._cache = cache
        self._max_bytes = max_bytes
        self._fs, self._root = _filesystem(url)
        self._sizes: dict[str, int | None] = {}
        key = hashlib.sha256(url.encode()).hexdigest()[:16]
        self._list = cache / f"{key}.json"

    def __str__(self) -> str:
        return self._url

    def look(self) -> Mapping[str, str]:
        """See `Source.look`."""
        try:
            self._fs.invalidate_cache()
            infos = self._fs.ls(self._root, detail=True)
        except Exception as error:  # whatever a store's package raises
            raise InputError(
                f"cartridges {self._url!r} cannot be listed: {_reason(error)}", param="cartridges"
            ) from error
        found = {}
        for info in infos:
            name = PurePosixPath(info["name"]).name
            if info.get("type") == "file" and has_suffix(Path(name), FILE_SUFFIX):
                found[name] = _stamp(info)
                self._sizes[name] = info.get("size")
        return dict(sorted(found.items()))

    def path(self, name: str, stamp: str) -> Path:
        """See `Source.path`; `stamp` is what the last `look` said."""
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            known = self._read_list().get(name)
            if known is not None and stamp and known.stamp == stamp:
                path = self._file(known.sha256)
                if _intact(path, known.sha256):
                    os.utime(path)
                    return path
            return self._fetch(name, stamp)
        except OSError as error:
            raise CartridgeError(f"{name}: cannot be kept: {_reason(error)}") from error

    def _fetch(self, name: str, stamp: str) -> Path:
        size = self._sizes.get(name)
        if size is not None and size > self._max_bytes:
            raise CartridgeError(
                f"{name}: has {size} bytes; at most {self._max_bytes} are fetched "
                "(--max-upload-bytes)"
            )
        part = self._cache / f".llamacart-{secrets.token_hex(8)}.tmp"
        try:
            try:
                self._fs.get_file(f"{self._root.rstrip('/')}/{name}", str(part))
            except Exception as error:
                raise CartridgeError(f"{name}: cannot be fetched: {_reason(error)}") from error
            with part.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            path = self._file(sha256)
            part.replace(path)
        finally:
            with suppress(OSError):
                part.unlink()
        sync_folder(self._cache)
        known = {**self._read_list(), name: _Known(stamp, sha256)}
        write_whole(self._list, json.dumps({n: vars(k) for n, k in sorted(known.items())}))
        return path

    def _file(self, sha256: str) -> Path:
        return self._cache / f"{sha256}{FILE_SUFFIX}"

    def _read_list(self) -> dict[str, _Known]:
        """What was fetched, by whichever server; nothing where that cannot be read."""
        try:
            items = json.loads(self._list.read_text(encoding="utf-8")).items()
            return {name: _Known(**fields) for name, fields in items}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


def tidy(cache: Path) -> None:
    """Delete what nobody has asked the cache for in a long time, and what was left half fetched."""
    now = time.time()
    with suppress(OSError):
        for path in cache.iterdir():
            most = PART_SECONDS if path.suffix == ".tmp" else KEEP_SECONDS
            with suppress(OSError):
                if now - path.stat().st_mtime > most:
                    path.unlink()


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        fs, root = fsspec.url_to_fs(url)
    except Exception as error:
        raise InputError(
            f"cartridges {url!r} cannot be used: {_reason(error)}", param="cartridges"
        ) from error
    return fs, str(root)


def _stamp(info: Mapping[str, Any]) -> str:
    """What changes when a file does; empty where the store does not say."""
    said = [f"{key} {info[key]}" for key in STRONG if info.get(key) is not None]
    said = said or [f"{key} {info[key]}" for key in WEAK if info.get(key) is not None]
    return ", ".join([*said, f"size {info.get('size')}"]) if said else ""


def _intact(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def _reason(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return said or type(error).__name__
