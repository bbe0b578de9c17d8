"""What pydantic found wrong with values, for the words of our own errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


@dataclass(frozen=True)
class InvalidValue:
    """The first value that pydantic refused.

    Attributes:
        place: Names and indices that lead to it; none where several fields do not go together.
        value: The value.
        message: What is wrong with it.
    """

    place: tuple[str | int, ...]
    value: Any
    message: str

    @classmethod
    def first(cls, error: ValidationError) -> InvalidValue:
        """The first of an error's."""
        found = error.errors()[0]
        return cls(found["loc"], found["input"], found["msg"].removeprefix("Value error, "))

    def __str__(self) -> str:
        return f"{self.key} has value {self.value!r}: {self.message}" if self.key else self.message

    @property
    def key(self) -> str:
        """Names of the fields on the way, with dots; empty where no one field is at fault."""
        # Members of a union (`float`, `literal['auto']`) appear in the place of the fault too.
        return ".".join(str(part) for part in self.place if str(part).isidentifier())
