"""Chats with tools as a template takes them, or in plain words where it knows no tools."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llamacart_server.bodies.tools import CLOSING, OPENING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart_server.bodies.generation import Message
    from llamacart_server.bodies.tools import Tool

_INSTRUCTION = f"""You can call these functions, one JSON object a line:
{{functions}}

To call one, write:
{OPENING}
{{{{"name": "<function>", "arguments": {{{{<arguments>}}}}}}}}
{CLOSING}"""


def knows_tools(template: str) -> bool:
    """Whether a template's source renders tools, with calls written as `tools` writes them."""
    return OPENING in template and "tools" in template and "tool_calls" in template


def for_template(messages: Sequence[Message], tools: Sequence[Tool], *, native: bool) -> list[Any]:
    """Messages as a template takes them.

    Args:
        messages: Of the request.
        tools: That the model may call now.
        native: Whether the template itself renders tools and calls; it is then given the tools
            beside the messages.
    """
    if native:
        return [_native(message) for message in messages]
    out: list[dict[str, str]] = []
    if tools:
        functions = "\n".join(json.dumps(spec, ensure_ascii=False) for spec in specs(tools))
        out.append({"role": "system", "content": _INSTRUCTION.format(functions=functions)})
    for i, message in enumerate(messages):
        plain = _plain(message)
        # The chat's own first system message goes on where the tools' ends, and the answers of
        # several tools make one turn.
        after_tools = tools and i == 0 and plain["role"] == "system"
        if after_tools or (message.role == "tool" and i and messages[i - 1].role == "tool"):
            out[-1]["content"] += f"\n{plain['content']}"
        else:
            out.append(plain)
    return out


def specs(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The tools as a template's `tools`, without what is absent."""
    return [tool.model_dump(exclude_none=True, exclude={"function": {"strict"}}) for tool in tools]


def _native(message: Message) -> dict[str, Any]:
    out: dict[str, Any] = {"role": _role(message), "content": message.text}
    if message.tool_calls:
        out["tool_calls"] = [
            {
                "id": call.id or "",
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": _parsed(call.function.arguments),
                },
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    return out


def _plain(message: Message) -> dict[str, str]:
    if message.role == "tool":
        content = f"<tool_response>\n{message.text}\n</tool_response>"
        return {"role": "user", "content": content}
    calls = [
        f'{OPENING}\n{{"name": "{call.function.name}", "arguments": {call.function.arguments}}}\n'
        f"{CLOSING}"
        for call in message.tool_calls or ()
    ]
    parts = [message.text, *calls] if message.text else calls
    return {"role": _role(message), "content": "\n".join(parts)}


def _role(message: Message) -> str:
    return "system" if message.role == "developer" else message.role


def _parsed(arguments: str) -> Any:
    """Arguments as templates want them: an object, where they are one."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
