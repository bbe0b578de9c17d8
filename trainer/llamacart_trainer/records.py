"""Reads the data files that a recipe names; what is wrong is told with file, line and value."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamacart.errors import NotFoundError, RecipeError
from llamacart_trainer.pairing import check_suffix

if TYPE_CHECKING:
    from pathlib import Path

MAX_GENERATED = 256
"""Most tokens that a recipe may let the model append to a text."""


@dataclass(frozen=True)
class TextPair:
    """A text in the model's own manner and the same text as the cartridge wants it.

    Attributes:
        source: Text whose activations are mapped.
        target: Text whose activations are aimed at.
        source_tokens: Greedy tokens to append to the source; None means the recipe's number.
        target_tokens: The same for the target.
    """

    source: str
    target: str
    source_tokens: int | None = None
    target_tokens: int | None = None


def read_pairs(path: Path, *, suffix: bool = False) -> tuple[TextPair, ...]:
    """Read a `.jsonl` file of `{"source", "target"}` or `{"context", "text"}` objects.

    The latter is short for source = text, target = context + text, so that a context ends in
    whatever is to stand between it and the text.

    Args:
        path: The file.
        suffix: Refuse pairs of which neither text ends in the other.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used, or there is none.
    """
    pairs = []
    for where, record in read_records(path):
        if "context" in record or "text" in record:
            text = _text(record, "text", where)
            source, target = text, _text(record, "context", where) + text
        else:
            source, target = _text(record, "source", where), _text(record, "target", where)
        if suffix:
            check_suffix(source, target, where)
        pairs.append(TextPair(source, target))
    if not pairs:
        raise RecipeError(f"{path}: no pairs")
    return tuple(pairs)


def read_texts(path: Path, key: str = "text") -> tuple[str, ...]:
    """Read one text from each line of a `.jsonl` file, e.g. of `{"text"}` objects.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used, or there is none.
    """
    texts = tuple(_text(record, key, where) for where, record in read_records(path))
    if not texts:
        raise RecipeError(f"{path}: no texts")
    return texts


def read_records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The JSON objects of a `.jsonl` file, each with a `file:line` for messages."""
    records = []
    for number, line in enumerate(read_file(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise RecipeError(f"{where}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise RecipeError(f"{where}: not an object")
        records.append((where, record))
    return records


def read_paper_pairs(path: Path) -> tuple[TextPair, ...]:
    """Read `[[{"prompt", "tokens"} target, {"prompt", "tokens"} source], …]`.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A pair cannot be used, or there is none.
    """
    try:
        records = json.loads(read_file(path))
    except ValueError as error:
        raise RecipeError(f"{path}: not JSON ({error})") from error
    if not isinstance(records, list) or not records:
        raise RecipeError(f"{path}: not a list of [target, source] pairs")
    pairs = []
    for number, record in enumerate(records):
        where = f"{path}: pair {number}"
        if not (isinstance(record, list) and len(record) == 2):
            raise RecipeError(f"{where}: not a list of two")
        target, source = record
        pairs.append(
            TextPair(
                source=_text(source, "prompt", where),
                target=_text(target, "prompt", where),
                source_tokens=_count(source, where),
                target_tokens=_count(target, where),
            )
        )
    return tuple(pairs)


def read_file(path: Path) -> str:
    """Text of a UTF-8 file.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFoundError(f"{str(path)!r} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{str(path)!r} cannot be read: {error}") from error


def _text(record: Any, key: str, where: str) -> str:
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise RecipeError(f"{where}: {key!r} has value {value!r}; a text is needed")
    return value


def _count(record: dict[str, Any], where: str) -> int:
    value = record.get("tokens", 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_GENERATED:
        raise RecipeError(f"{where}: 'tokens' has value {value!r}; 0 to {MAX_GENERATED} is needed")
    return value
