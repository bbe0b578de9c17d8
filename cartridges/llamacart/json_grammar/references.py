"""Where the references of a JSON Schema lead."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from llamacart.json_grammar.keywords import refusal, short


def is_local(reference: str) -> bool:
    """Whether a reference is to the same document, by place."""
    return f"{reference}/".startswith("#/")


def resolve(document: Any, reference: Any, where: str) -> Any:
    """What a `$ref` that lies at `where` refers to."""
    if not isinstance(reference, str) or not is_local(reference):
        raise refusal(where, f"refers to {short(reference)}; only '#/…' is supported")
    target: Any = document
    for part in reference.split("/")[1:]:
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and key.isdecimal() and int(key) < len(target):
            target = target[int(key)]
        elif isinstance(target, dict) and key in target:
            target = target[key]
        else:
            raise refusal(where, f"refers to {reference!r}, which does not exist")
    return target
