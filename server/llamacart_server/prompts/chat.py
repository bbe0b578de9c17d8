"""From a chat's messages and tools to its prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacart.errors import InputError
from llamacart_server.prompts.tool_messages import for_template, knows_tools, specs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart.chat.templates import ChatTemplate, Vocabulary
    from llamacart_server.bodies.generation import Message
    from llamacart_server.bodies.tools import Tool


def chat_tokens(
    template: ChatTemplate,
    messages: Sequence[Message],
    vocabulary: Vocabulary,
    tools: Sequence[Tool] = (),
) -> list[int]:
    """Prompt tokens of a chat; see `ChatTemplate.tokens`.

    Raises:
        InputError: The template cannot be used, or refuses the messages.
    """
    if template.problem is not None:
        raise InputError(
            f"the chat template ({template.source}) cannot be used: {template.problem}; the "
            "server must be started with another one (--chat-template)",
            param="messages",
        )
    native = knows_tools(template.text)
    given = for_template(messages, tools, native=native)
    return template.tokens(given, vocabulary, specs(tools) if native else ())
