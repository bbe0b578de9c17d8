"""Which cartridges a request names, as far as that is clear; the server itself checks requests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llamacart.errors import LlamacartError
from llamacart_server.library.selection import parse_model_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODELS = "/v1/models"


def named(path: str, body: bytes, names: Sequence[str]) -> tuple[str, ...]:
    """Ids of the cartridges that a request names, those of its model id first.

    Args:
        path: Of the request.
        body: Of the request, decompressed.
        names: The base model's id, then its aliases.
    """
    if path.startswith(f"{MODELS}/"):
        found = _of_model(path.removeprefix(f"{MODELS}/"), names)
    else:
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            return ()
        found = _of_body(fields, names) if isinstance(fields, dict) else iter(())
    return tuple(dict.fromkeys(found))


def _of_body(fields: dict[str, Any], names: Sequence[str]) -> Iterator[str]:
    model, short, items = (fields.get(key) for key in ("model", "cartridge", "cartridges"))
    if isinstance(model, str):
        yield from _of_model(model, names)
    if isinstance(short, str):
        yield short
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            yield item["id"]


def _of_model(model: str, names: Sequence[str]) -> Iterator[str]:
    try:
        choices = parse_model_id(model, names)
    except LlamacartError:
        return
    for choice in choices or ():
        yield choice.id
