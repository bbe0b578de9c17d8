"""Files of records, whatever holds them: JSON Lines, a JSON list, or a table (CSV, TSV)."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from llamacart.disk.text import read_text
from llamacart.errors import InputError, RecipeError
from llamacart.file.texts import shown

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

Records = list[tuple[str, dict[str, Any]]]
"""Objects, each with the `file:line` that messages begin with."""

DELIMITERS = {".csv": ",;\t", ".tsv": "\t", ".tab": "\t"}
"""What may stand between the columns of a table, by the end of its name."""

UNREAD = {
    ".xlsx": "save the sheet as CSV in UTF-8",
    ".xls": "save the sheet as CSV in UTF-8",
    ".ods": "save the sheet as CSV in UTF-8",
    ".parquet": "write it as JSON Lines",
    ".gz": "unpack it",
    ".zip": "unpack it",
}
"""What to do about a file that people have and that is no text."""

_TRUTHS = {"true": True, "false": False}


def read_lines(path: Path, keys: Collection[str]) -> Records:
    """The records of a file.

    A name that ends in `.csv` or `.tsv` is a table, whose first row names the columns. One that
    ends in `.json` may hold a single JSON list. All others are JSON Lines.

    Args:
        path: The file.
        keys: Names of columns that mean something: they tell what separates columns.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: It cannot be read, or a line is no record.
    """
    ending = path.suffix.lower()
    if ending in UNREAD:
        raise RecipeError(f"{path}: a {ending} file is not read; {UNREAD[ending]}")
    text = read_file(path)
    if ending in DELIMITERS:
        return _table(path, text, DELIMITERS[ending], keys)
    if ending == ".json" and text.lstrip().startswith("["):
        items = parse_json(text, str(path))
        return [_record(item, f"{path}: item {n}") for n, item in enumerate(items, start=1)]
    return [
        _record(parse_json(line, f"{path}:{number}"), f"{path}:{number}")
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]


def read_file(path: Path) -> str:
    """Text of a UTF-8 file; see `read_text`.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: It cannot be read.
    """
    try:
        return read_text(path)
    except InputError as error:
        raise RecipeError(error.message) from error


def parse_json(text: str, where: str) -> Any:
    """The JSON value that `text` is; `where` begins the message.

    Raises:
        RecipeError: It is none, is nested too deep, or names a key of an object twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise RecipeError(f"{where}: JSON that is nested too deep") from error
    except _TwiceError as error:
        raise RecipeError(f"{where}: key {error.key} occurs twice") from error
    except ValueError as error:
        raise RecipeError(f"{where}: not JSON ({error})") from error


class _TwiceError(ValueError):
    """An object names a key twice."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = shown(key)


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in items:
        if key in found:
            raise _TwiceError(key)
        found[key] = value
    return found


def _record(value: Any, where: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: not an object; each line is to be one JSON object")
    return where, value


# --- tables ---------------------------------------------------------------------------------


def _table(path: Path, text: str, delimiters: str, keys: Collection[str]) -> Records:
    """Rows of a table as records; an empty cell is a key that is not there."""
    if not text.strip():
        return []
    delimiter, columns = _header(path, text, delimiters, keys)
    records: Records = []
    rows = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    start = 1
    try:
        for row in rows:
            where, start = f"{path}:{start}", rows.line_num + 1
            if where == f"{path}:1" or not any(cell.strip() for cell in row):
                continue
            if len(row) != len(columns):
                raise RecipeError(
                    f"{where}: {len(row)} columns, where the first line names {len(columns)}; a "
                    f"text that holds {shown(delimiter)} or a line break stands in double quotes"
                )
            cells = zip(columns, row, strict=True)
            records.append((where, {key: _cell(key, value) for key, value in cells if value}))
    except csv.Error as error:
        raise RecipeError(
            f"{path}:{start}: not a row of a table ({error}); a text with double quotes stands in "
            "double quotes, with each of its own doubled"
        ) from error
    return records


def _header(path: Path, text: str, delimiters: str, keys: Collection[str]) -> tuple[str, list[str]]:
    """What separates the columns, and their names; told by the names that mean something."""
    line = text.partition("\n")[0]
    found: tuple[str, list[str]] | None = None
    for delimiter in delimiters:
        try:
            row = next(csv.reader([line], delimiter=delimiter, strict=True))
        except csv.Error:
            continue
        columns = [name.strip() for name in row]
        columns = [name.lower() if name.lower() in keys else name for name in columns]
        known = len(set(columns) & set(keys))
        if known and (found is None or known > len(set(found[1]) & set(keys))):
            found = delimiter, columns
    if found is None:
        raise RecipeError(
            f"{path}:1: found {shown(line)}; the first line of a table names its columns, such as "
            "source and target"
        )
    twice = next((name for name in found[1] if name and found[1].count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"{path}:1: column {shown(twice)} occurs twice")
    return found


def _cell(key: str, value: str) -> Any:
    return _TRUTHS.get(value.strip().lower(), value) if key in ("neutral", "ended") else value
