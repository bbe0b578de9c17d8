"""A hash that tells two fine-tunes apart without reading the whole file."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

WINDOWS = 1024
WINDOW_BYTES = 4096
_SPLIT = re.compile(r"^(?P<stem>.*)-(?P<part>\d{5})-of-(?P<count>\d{5})(?P<end>\.gguf)$", re.I)


def weights_hash(path: Path) -> str:
    """SHA-256 (hex) over the sizes of a GGUF file's parts and 4 MiB sampled evenly from each.

    A fine-tune changes nearly every block of the matrices it trains, and the samples lie closer
    together than a matrix is long, so two fine-tunes differ in the samples too. An edit of the
    metadata alone also changes the hash: the file is then another file.
    """
    digest = hashlib.sha256()
    for part in parts_of(path):
        size = part.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        step = max(WINDOW_BYTES, (size - WINDOW_BYTES) // (WINDOWS - 1))
        with part.open("rb") as file:
            for offset in range(0, size, step):
                file.seek(offset)
                digest.update(file.read(WINDOW_BYTES))
    return digest.hexdigest()


def missing_parts(path: Path) -> list[Path]:
    """Parts of a split model beside `path` that are not there."""
    return [part for part in _all_parts(path) if not part.is_file()]


def parts_of(path: Path) -> list[Path]:
    """Files of a model: one, or the parts of a split one that are there."""
    return [part for part in _all_parts(path) if part.is_file()]


def _all_parts(path: Path) -> list[Path]:
    match = _SPLIT.match(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    return [
        path.with_name(f"{match['stem']}-{i:05d}-of-{count:05d}{match['end']}")
        for i in range(1, count + 1)
    ]
