"""What a file is that llama.cpp does not load as a model.

Asked only after it has refused the file, so that a format which it learns needs no change here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacart.file import format as fmt
from llamacart.llama.fingerprint import missing_parts
from llamacart.llama.gguf_header import GgufHeader

if TYPE_CHECKING:
    from pathlib import Path

_HEAD_BYTES = 512
_TYPES = {
    "adapter": "a LoRA adapter",
    "mmproj": "a projector for images or sound (mmproj)",
    "imatrix": "an importance matrix",
    "vocab": "a vocabulary without weights",
}
_ARCHITECTURES = {
    "clip": _TYPES["mmproj"],
    "imatrix": _TYPES["imatrix"],
    "controlvector": "a control vector",
}
_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer; the file itself was not downloaded"),
    (b"PK\x03\x04", "a PyTorch or zip file; convert it to GGUF"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1f\x8b", "compressed by gzip; unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it"),
    (b"ggjt", "of llama.cpp's format before GGUF; convert it"),
    (b"tjgg", "of llama.cpp's format before GGUF; convert it"),
)


def what_it_is(path: Path) -> str | None:
    """What the file is instead of a model, e.g. "a LoRA adapter"; None where it is not known."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return None
    if not head:
        return "empty"
    if head.startswith(fmt.MAGIC):
        return _kind_of_gguf(path)
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page; the address that it came from is not the file's"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "a safetensors file; convert it to GGUF"
    return "no GGUF file"


def _kind_of_gguf(path: Path) -> str | None:
    with GgufHeader.opened(path) as file:
        if file is None:
            return None  # llama.cpp has said what is wrong with it
        if file.has(fmt.VERSION):
            return "a cartridge; give it by --cartridges, and the model that it was made for here"
        kind = _TYPES.get(file.text(fmt.TYPE) or "")
        kind = kind or _ARCHITECTURES.get(file.text(fmt.ARCHITECTURE) or "")
        if kind is not None:
            return kind
        count, number = file.uint16("split.count") or 0, file.uint16("split.no") or 0
        if count > 1 and number > 0:
            return f"part {number + 1} of {count} of a split model; give the first part"
        missing = missing_parts(path)
        if count > 1 and missing:
            return f"part 1 of {count} of a split model, of which {missing[0].name!r} is missing"
        if file.n_tensors == 0:
            return _TYPES["vocab"]
        return None
