"""Function calling by constrained generation: what a client offers, and the grammar of a call.

A call is written as Hermes and Qwen models write it:

    <tool_call>
    {"name": "weather", "arguments": {"city": "Paris"}}
    </tool_call>

Where the model may choose, it writes text without the marker `<tool_call>`, then calls or
nothing. Where it must call, it writes calls alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacart.errors import InputError
from llamacart_server.bodies.tools import OPENING, NamedTool, Tool
from llamacart_server.constraints.tool_grammar import call_grammar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamacart.json_grammar.grammar import Grammar
    from llamacart.values.tokenizer import Tokenizer
    from llamacart_server.bodies.generation import ChatBody

MAX_TOOLS = 128


@dataclass(frozen=True)
class ToolUse:
    """What a chat may or must call.

    Attributes:
        tools: What the prompt tells the model of.
        grammar: What the answer must follow.
    """

    tools: tuple[Tool, ...]
    grammar: Grammar


def tool_use(body: ChatBody, markers: Mapping[str, int], tokenizer: Tokenizer) -> ToolUse | None:
    """The tools of a chat, None where there are none to call. Slow for large schemas.

    Args:
        body: The chat.
        markers: Control tokens of the vocabulary that stand for `OPENING` and `CLOSING`.
        tokenizer: Of the model, for whose tokens the grammar is.

    Raises:
        InputError: `tools` and `tool_choice` do not fit, or a schema cannot be kept.
    """
    tools, choice = tuple(body.tools or ()), body.tool_choice
    if not tools:
        if choice not in (None, "none", "auto"):
            raise InputError(
                "tool_choice asks for a call, and there are no tools", param="tool_choice"
            )
        return None
    if len(tools) > MAX_TOOLS:
        raise InputError(f"tools has {len(tools)} items; at most {MAX_TOOLS} work", param="tools")
    names = [tool.function.name for tool in tools]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise InputError(f"tools[{i}] is a second function {name!r}", param=f"tools[{i}]")
    if choice == "none":
        return None
    callable_tools = tools
    if isinstance(choice, NamedTool):
        callable_tools = tuple(t for t in tools if t.function.name == choice.function.name)
        if not callable_tools:
            raise InputError(
                f"tool_choice names {choice.function.name!r}, which is not among the tools",
                param="tool_choice",
            )
    several = bool(body.parallel_tool_calls) and not isinstance(choice, NamedTool)
    must = choice not in (None, "auto")
    indices = [tools.index(tool) for tool in callable_tools]
    text = call_grammar(tools, indices, markers, must=must, several=several)
    try:
        return ToolUse(tools, tokenizer.grammars.compile(text))
    except InputError as error:
        raise InputError(f"tools: {error.message}", param="tools") from None


# --- reading an answer ---------------------------------------------------------------------------


@dataclass(frozen=True)
class CallPart:
    """A piece of a call.

    Attributes:
        index: Which call of the answer.
        name: The function, in the first piece of a call.
        arguments: The next characters of its JSON.
    """

    index: int
    name: str | None
    arguments: str


class ToolReader:
    """Tells text from calls in an answer that follows a grammar of `tool_use`.

    Attributes:
        n_calls: Calls begun so far.
        is_inside: Whether the last one, or the next, is not complete yet.
        in_arguments: Whether the arguments of the last one are not complete yet.
    """

    _HEADER = '", "arguments": '

    def __init__(self) -> None:
        self.n_calls = 0
        self.is_inside = False
        self.in_arguments = False
        self._buffer = ""
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def push(self, text: str) -> tuple[str, list[CallPart]]:
        """Add text of the answer; returns content and pieces of calls that are now known."""
        self._buffer += text
        content = ""
        parts: list[CallPart] = []
        while True:
            if self.in_arguments:
                arguments = self._take_arguments()
                if arguments:
                    parts.append(CallPart(self.n_calls - 1, None, arguments))
                if self.in_arguments:
                    return content, parts
            elif self.is_inside:
                header, found, rest = self._buffer.partition(self._HEADER)
                if not found:
                    return content, parts
                self._buffer = rest
                parts.append(CallPart(self.n_calls, header.rpartition('"')[2], ""))
                self.n_calls += 1
                self.in_arguments = True
            else:
                before, found, rest = self._buffer.partition(OPENING)
                if not found:
                    n_held = self._n_held()
                    before, self._buffer = (
                        before[: len(before) - n_held],
                        before[len(before) - n_held :],
                    )
                    return content + self._content(before), parts
                content += self._content(before)
                self._buffer = rest
                self.is_inside = True

    def finish(self) -> str:
        """Content that was held back, once no more text comes."""
        rest, self._buffer = self._buffer, ""
        return "" if self.is_inside else self._content(rest)

    def _content(self, text: str) -> str:
        # Behind a call there are only its end and line breaks.
        return "" if self.n_calls else text

    def _n_held(self) -> int:
        return next(
            (n for n in range(len(OPENING) - 1, 0, -1) if self._buffer.endswith(OPENING[:n])), 0
        )

    def _take_arguments(self) -> str:
        """Take the buffer up to where the object closes."""
        for i, character in enumerate(self._buffer):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if not self._depth:
                    taken, self._buffer = self._buffer[: i + 1], self._buffer[i + 1 :]
                    self.in_arguments = self.is_inside = False
                    return taken
        taken, self._buffer = self._buffer, ""
        return taken
