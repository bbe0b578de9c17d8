"""What bodies are made of: their base, and types as strict as JSON where pydantic would convert."""

from __future__ import annotations

from collections.abc import Collection  # pydantic reads the annotations
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from llamacart_server.bodies.foreign import refusal
from llamacart_server.refusals import UNKNOWN_FIELD

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler


class Body(BaseModel):
    """Base of request bodies and of the objects in them; refuses a field that it does not have.

    Attributes:
        harmless: Fields that are accepted and ignored, because they change nothing.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)
    harmless: ClassVar[Collection[str]] = ()

    @model_validator(mode="wrap")
    @classmethod
    def _has_known_fields(cls, given: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        # First: of a part of another type, that type is to be told, not what comes with it.
        out = check(given)
        # Most have known fields alone, and a body can hold a hundred thousand objects.
        if isinstance(given, dict) and not given.keys() <= (known := _names_of(cls)):
            for name in given:
                reason = None if name in known else cls.refusal(name, given, known)
                if reason is not None:
                    # In a tuple: pydantic cannot write a lone surrogate.
                    raise PydanticCustomError(
                        UNKNOWN_FIELD, "{reason}", {"path": (name,), "reason": reason}
                    )
        return out

    @classmethod
    def refusal(cls, name: str, given: dict[str, Any], known: Collection[str]) -> str | None:
        """Why `given` cannot have a field that is not among the `known` ones; None if it can."""
        return refusal(name, given, known, cls.harmless)


@cache
def _names_of(body: type[BaseModel]) -> frozenset[str]:
    """The fields of a class, as JSON calls them."""
    return frozenset(field.alias or name for name, field in body.model_fields.items())


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


MAX_TOP_LOGPROBS = 20
