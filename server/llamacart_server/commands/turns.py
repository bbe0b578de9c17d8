"""Turns of a conversation from a file, one a line, as the trainer's recipes hold them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llamacart.disk.text import read_text
from llamacart.errors import InputError
from llamacart.file.texts import shown
from llamacart.values.near import did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

ROLES = ("system", "user", "assistant")


def read_turns(path: Path) -> list[dict[str, str]]:
    """Messages of a file of `{"role", "content"}` objects.

    Raises:
        NotFoundError: There is no such file.
        InputError: A line is no turn, or there is none; the message names file, line and value.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    turns = [_turn(line, f"{path}:{number}") for number, line in lines if line.strip()]
    if not turns:
        raise InputError(f"{path}: no turns")
    return turns


def _turn(line: str, where: str) -> dict[str, str]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error})") from error
    if not isinstance(record, dict):
        raise InputError(f"{where}: {shown(record)} is not an object")
    role, content = record.get("role"), record.get("content")
    if role not in ROLES:
        raise InputError(
            f"{where}: 'role' has value {shown(role)}; {', '.join(ROLES)} are known"
            f"{did_you_mean(role, ROLES)}"
        )
    if not isinstance(content, str) or not content.strip():
        raise InputError(f"{where}: 'content' has value {shown(content)}; a text is needed")
    return {"role": role, "content": content}
