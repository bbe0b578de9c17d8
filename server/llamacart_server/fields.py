"""Types of the fields of a body: as strict as JSON, where pydantic would convert."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError, core_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler


def _check_number(value: object) -> object:
    """Refuse what pydantic would take for a number, and JSON does not."""
    if isinstance(value, bool | str):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


Flag = Annotated[bool, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
WholeNumber = Annotated[int, BeforeValidator(_check_number)]
"""JSON has one type of number: 16.0 is 16."""


class Only:
    """Marks a field that refuses every value but null and the `harmless` ones."""

    def __init__(self, *harmless: object) -> None:
        self._harmless = harmless

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, *_: object) -> dict[str, Any]:
        return {"enum": [None, *self._harmless]}

    def _check(self, value: object) -> object:
        # By type too: 1 and True are equal to Python, not to a client.
        if value is not None and not any(
            type(value) is type(h) and value == h for h in self._harmless
        ):
            raise ValueError("is not supported by this server")
        return value


Off = Annotated[Any, Only(False)]
Empty = Annotated[Any, Only([], {}, "")]
