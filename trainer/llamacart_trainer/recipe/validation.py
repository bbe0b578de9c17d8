"""What pydantic found wrong with values, for the words of our own errors."""

from __future__ import annotations

import difflib
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from llamacart.errors import NotFoundError
from llamacart.file.texts import shown
from llamacart.values.near import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic import ValidationError
    from pydantic.fields import FieldInfo

_OWN_WORDS = {"model_type": "a table is needed", "dict_type": "a table is needed"}
"""By pydantic's name of a fault, where its own words speak of its classes."""


@contextmanager
def file_or(name: str, *known: str) -> Iterator[None]:
    """Reads a file that a recipe names where one of some words might stand as well.

    Raises:
        NotFoundError: There is none; the message says which of the words is near the name.
    """
    try:
        yield
    except NotFoundError as error:
        raise NotFoundError(f"{error.message}{did_you_mean(name, known)}") from error


@dataclass(frozen=True)
class InvalidValue:
    """The first value that pydantic refused.

    Attributes:
        place: Names and indices that lead to it; none where several fields do not go together.
        value: The value.
        message: What is wrong with it.
        kind: Pydantic's name of the fault.
    """

    place: tuple[str | int, ...]
    value: Any
    message: str
    kind: str = ""

    @classmethod
    def first(cls, error: ValidationError) -> InvalidValue:
        """The first of an error's."""
        faults = error.errors()
        found = faults[0]
        kind = found["type"]
        message = _OWN_WORDS.get(kind, found["msg"].removeprefix("Value error, "))
        message += did_you_mean(found["input"], _words(faults, found["loc"][:1]))
        return cls(found["loc"], found["input"], message, kind)

    def __str__(self) -> str:
        if not self.key:
            return self.message
        if self.kind == "missing":
            return f"{self.key} is missing"
        return f"{self.key} has value {shown(self.value)}: {self.message}"

    @property
    def key(self) -> str:
        """Names of the fields on the way, with dots; empty where no one field is at fault."""
        if self.kind == "extra_forbidden":  # as it was written, hyphens and all
            return ".".join(map(str, self.place))
        # Members of a union (`float`, `literal['auto']`) appear in the place of the fault too.
        return ".".join(str(part) for part in self.place if str(part).isidentifier())

    def advice(self, model: type[BaseModel]) -> str:
        """What to say of a key that `model` does not have, or the fault as it is."""
        if self.kind != "extra_forbidden":
            return str(self)
        *tables, key = map(str, self.place)
        said = f"there is no key {self.key!r}"
        near = difflib.get_close_matches(key, _fields(model, tables), n=1)
        if near:
            return f"{said}; did you mean {'.'.join((*tables, near[0]))!r}?"
        homes = _homes(model, key)
        return f"{said}; it belongs {homes[0]}" if homes else said


def _words(faults: Sequence[Any], place: tuple[str | int, ...]) -> list[str]:
    """The words that a field takes, by the faults that were found in it or in its parts."""
    return [
        word
        for fault in faults
        if fault["type"] == "literal_error" and fault["loc"][:1] == place
        for word in re.findall(r"'([^']*)'", fault["ctx"]["expected"])
    ]


def _table(field: FieldInfo) -> type[BaseModel] | None:
    kinds = get_args(field.annotation) or (field.annotation,)  # a table may be one that is optional
    tables = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return tables[0] if tables else None


def _fields(model: type[BaseModel], tables: list[str]) -> Mapping[str, FieldInfo]:
    for name in tables:
        field = model.model_fields.get(name)
        inner = None if field is None else _table(field)
        if inner is None:
            return {}
        model = inner
    return model.model_fields


def _homes(model: type[BaseModel], key: str) -> list[str]:
    """Where a key of that name belongs: before all tables, or in which."""
    if key in model.model_fields:
        return ["above the first [table]"]
    return [
        f"in [{name}]"
        for name, field in model.model_fields.items()
        if (inner := _table(field)) is not None and key in inner.model_fields
    ]
