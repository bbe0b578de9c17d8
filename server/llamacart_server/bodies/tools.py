"""Tools that a chat offers, the choice among them, and calls of the past."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from llamacart_server.bodies.fields import Body, Flag

OPENING, CLOSING = "<tool_call>", "</tool_call>"
"""What stands around a call in the text of an answer."""

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class FunctionSpec(Body):
    """`function` of a tool.

    What of its schema cannot be kept is refused where it is `strict`, else told in the prompt
    alone.
    """

    harmless: ClassVar[Collection[str]] = ("return",)

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Flag | None = None


class Tool(Body):
    """An item of `tools`."""

    harmless: ClassVar[Collection[str]] = ("cache_control",)

    type: Literal["function"]
    function: FunctionSpec


class FunctionChoice(Body):
    """`function` of a `tool_choice`."""

    name: str


class NamedTool(Body):
    """A `tool_choice` of one function."""

    type: Literal["function"]
    function: FunctionChoice


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class PastFunction(Body):
    """What an assistant called, in a message of the past."""

    name: str
    arguments: str


class PastCall(Body):
    """An item of `tool_calls` in a message of the past."""

    harmless: ClassVar[Collection[str]] = ("extra_content", "index")

    id: str | None = None
    type: Literal["function"] = "function"
    function: PastFunction
