"""Answers that must be JSON: the fields that ask for them, and the grammar they become."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamacart.errors import InputError
from llamacart.json_grammar.schema import object_grammar, parse_schema, schema_grammar

if TYPE_CHECKING:
    from llamacart.json_grammar.grammar import Grammar
    from llamacart.values.tokenizer import Tokenizer
    from llamacart_server.bodies.formats import ResponseFormat, StructuredOutputs
    from llamacart_server.bodies.generation import GenerationBody


def grammar_of(body: GenerationBody, tokenizer: Tokenizer) -> Grammar | None:
    """The grammar that an answer must follow, or None. Slow for a large schema.

    Raises:
        InputError: Two fields ask for one, or a schema cannot be kept; `param` is the field that
            holds it.
    """
    asked = [
        ("response_format", _of_response_format(body.response_format)),
        ("structured_outputs", _of_structured_outputs(body.structured_outputs)),
        ("guided_json", _given(body.guided_json, "guided_json")),
        ("json_schema", _given(body.json_schema, "json_schema")),
    ]
    wanted = [(param, ask) for param, ask in asked if ask is not None]
    if not wanted:
        return None
    if len(wanted) > 1:
        first, second = wanted[0][0], wanted[1][0]
        raise InputError(f"{second} and {first} both say what to answer", param=second)
    return wanted[0][1].grammar(tokenizer)


class _Ask:
    """A wish for JSON: under a schema, or any object.

    Args:
        param: The field that holds the schema.
        schema: A schema, or its JSON text, as vLLM allows.
        any_object: Any object will do.
    """

    def __init__(self, param: str, schema: Any = None, *, any_object: bool = False) -> None:
        self._param = param
        self._schema = schema
        self._any_object = any_object

    def grammar(self, tokenizer: Tokenizer) -> Grammar:
        """Its grammar; errors name the field."""
        try:
            return tokenizer.grammars.compile(self._text())
        except InputError as error:
            raise InputError(f"{self._param}: {error.message}", param=self._param) from None

    def _text(self) -> str:
        if self._any_object:
            return object_grammar()
        given = self._schema
        return schema_grammar(parse_schema(given) if isinstance(given, str) else given)


def _of_response_format(given: ResponseFormat | None) -> _Ask | None:
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return _given(given.bare_schema, "response_format.schema") or _Ask(
            "response_format", any_object=True
        )
    if given.json_schema is None:
        raise InputError(
            "response_format.json_schema is missing; type 'json_schema' needs it",
            param="response_format.json_schema",
        )
    return _Ask("response_format.json_schema.schema", given.json_schema.json_schema)


def _of_structured_outputs(given: StructuredOutputs | None) -> _Ask | None:
    if given is None:
        return None
    if given.json_object:
        return _Ask("structured_outputs", any_object=True)
    return _given(given.json_schema, "structured_outputs.json")


def _given(schema: Any, param: str) -> _Ask | None:
    return None if schema is None or schema == "" else _Ask(param, schema)
