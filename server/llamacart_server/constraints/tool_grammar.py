"""The grammar of calls, from the schemas of functions, in llguidance's Lark."""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llamacart.errors import InputError
from llamacart.json_grammar.grammar import grammar_text
from llamacart.json_grammar.schema import schema_part
from llamacart_server.bodies.tools import CLOSING, OPENING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llamacart_server.bodies.tools import FunctionSpec, Tool

logger = logging.getLogger(__name__)


def call_grammar(
    tools: Sequence[Tool],
    indices: Sequence[int],
    markers: Mapping[str, int],
    *,
    must: bool,
    several: bool,
) -> str:
    """The text of a grammar of answers that call functions.

    Args:
        tools: All that there are.
        indices: Of those that may be called.
        markers: Control tokens of the vocabulary that stand for `OPENING` and `CLOSING`.
        must: Whether there must be a call, and no text.
        several: Whether there may be more than one.

    Raises:
        InputError: A schema cannot be kept; `param` names it.
    """
    parts: dict[str, dict[str, Any]] = {}
    bodies = []
    for i in indices:
        function = tools[i].function
        head = f'\n{{"name": "{function.name}", "arguments": '
        part = _arguments(function, f"tools[{i}].function.parameters")
        if part is None:
            bodies.append(_literal(head + "{}"))
        else:
            parts[f"f{i}"] = part
            bodies.append(f"{_literal(head)} @f{i}")
    opening = _marker(OPENING, markers)
    end = _literal("}\n")
    more = f' ("\\n" {opening} call)*' if several else ""
    rules = [
        f"call: ({' | '.join(bodies)}) {end} {_marker(CLOSING, markers)}",
        f"calls: call{more}",
    ]
    if must:
        rules.append(f"start: {opening} calls")
    else:
        # A lazy rule ends where the marker does; the other one never reaches its end.
        rules += [
            "start: TEXT | opening calls",
            f"opening[lazy]: /(?s:.*){OPENING}/",
            f"TEXT: /(?s:.*)/ & ~/(?s:.*){OPENING}(?s:.*)/",
        ]
        if OPENING in markers:
            rules[-3] = f"start: TEXT | opening calls | TEXT <[{markers[OPENING]}]> calls"
    return grammar_text("\n".join(rules), parts)


def _marker(text: str, markers: Mapping[str, int]) -> str:
    if text not in markers:
        return _literal(text)
    return f"({_literal(text)} | <[{markers[text]}]>)"


def _literal(text: str) -> str:
    return json.dumps(text)


def _arguments(function: FunctionSpec, param: str) -> dict[str, Any] | None:
    schema = function.parameters
    if schema is None:  # as OpenAI has it: a function without parameters
        return None
    if schema and schema.get("type", "object") != "object":
        raise InputError(f"{param} has type {schema['type']!r}; 'object' is needed", param=param)
    try:
        part, notes = schema_part({**schema, "type": "object"}, relaxed=not function.strict)
    except InputError as error:
        raise InputError(f"{param}: {error.message}", param=param) from None
    if notes:
        _tell(function.name, tuple(notes))
    return part


@lru_cache(maxsize=256)
def _tell(name: str, notes: tuple[str, ...]) -> None:
    """Say once that a schema is not kept whole."""
    more = f" and {len(notes) - 5} more" if len(notes) > 5 else ""
    logger.warning(
        "function %r is not strict; left to the model: %s%s", name, "; ".join(notes[:5]), more
    )
