"""The chat that a body of `POST /v1/responses` asks for, and what that calls its fields."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llamacart_server.bodies.formats import JsonSchemaFormat, ResponseFormat
from llamacart_server.bodies.generation import ChatBody, Message, SampledBody
from llamacart_server.bodies.tools import (
    FunctionChoice,
    FunctionSpec,
    NamedTool,
    PastCall,
    PastFunction,
    Tool,
)
from llamacart_server.responses.body import (
    FunctionCallItem,
    FunctionOutputItem,
    FunctionToolChoice,
    MessageItem,
    SchemaFormat,
)

if TYPE_CHECKING:
    from typing import Literal

    from llamacart.errors import InputError
    from llamacart_server.bodies.tools import ToolChoice
    from llamacart_server.responses.body import (
        Content,
        FunctionTool,
        InputItem,
        ResponsesBody,
        TextOptions,
    )

# What a chat calls a field, and what it is called here.
_NAMES = (
    (re.compile(r"^messages$"), "input"),
    (re.compile(r"^response_format(\.json_schema\.schema)?$"), "text.format.schema"),
    (re.compile(r"^(tools\[\d+])\.function"), r"\1"),
)
_SHARED = SampledBody.model_fields.keys() - {"stream_options"}
"""Fields that a chat has too."""


def as_chat(body: ResponsesBody) -> ChatBody:
    """The same request as a chat."""
    return ChatBody(
        **{name: getattr(body, name) for name in _SHARED},
        messages=_messages(body.instructions, body.input),
        max_completion_tokens=body.max_output_tokens,
        response_format=_response_format(body.text),
        tools=[_chat_tool(tool) for tool in body.tools or ()],
        tool_choice=_chat_choice(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls,
    )


def renamed(error: InputError) -> InputError:
    """An error of such a chat, with its field called as in the body that it came from."""
    old = error.param or ""
    for pattern, name in _NAMES:
        new = pattern.sub(name, old)
        if new != old:
            return type(error)(error.message.replace(old, new, 1), param=new)
    return error


def _text(content: Content) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _messages(instructions: str | None, given: str | list[InputItem]) -> list[Message]:
    items = [MessageItem(role="user", content=given)] if isinstance(given, str) else given
    # Many templates take a system message only as the first.
    leading = [instructions] if instructions else []
    n_leading = 0
    for item in items:
        if not isinstance(item, MessageItem) or item.role not in ("system", "developer"):
            break
        leading.append(_text(item.content))
        n_leading += 1
    out = [Message(role="system", content="\n".join(leading))] if leading else []
    calls: list[PastCall] = []
    for i, item in enumerate(items[n_leading:]):
        if isinstance(item, FunctionCallItem):
            function = PastFunction(name=item.name, arguments=item.arguments)
            calls.append(PastCall(id=item.call_id, function=function))
            # What was said just before, and all calls made at once, are one turn.
            said = out.pop().content if i and out[-1].role == "assistant" else None
            out.append(Message(role="assistant", content=said, tool_calls=[*calls]))
            continue
        calls = []
        if isinstance(item, FunctionOutputItem):
            content = _text(item.output)
            out.append(Message(role="tool", content=content, tool_call_id=item.call_id))
        else:
            out.append(Message(role=item.role, content=_text(item.content)))
    return out


def _response_format(text: TextOptions | None) -> ResponseFormat | None:
    wanted = text.format if text else None
    if isinstance(wanted, SchemaFormat):
        schema = JsonSchemaFormat(name=wanted.name, schema=wanted.json_schema)
        return ResponseFormat(type="json_schema", json_schema=schema)
    return ResponseFormat(type=wanted.type) if wanted else None


def _chat_tool(tool: FunctionTool) -> Tool:
    return Tool(
        type="function",
        function=FunctionSpec(
            name=tool.name,
            description=tool.description,
            parameters=tool.parameters,
            strict=tool.strict,
        ),
    )


def _chat_choice(
    choice: Literal["none", "auto", "required"] | FunctionToolChoice | None,
) -> ToolChoice | None:
    if isinstance(choice, FunctionToolChoice):
        return NamedTool(type="function", function=FunctionChoice(name=choice.name))
    return choice
