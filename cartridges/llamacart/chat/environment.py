"""Jinja as Hugging Face's chat templates expect it, sandboxed and bounded.

A template is a program of whoever made the model, and what it renders comes from a client. It
cannot reach Python, and a render ends: each turn of a loop and each call looks at the clock, and
what is multiplied, added up or written cannot grow beyond a limit.
"""

from __future__ import annotations

import json
import re
import time
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, do, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from jinja2.parser import Parser

RENDER_SECONDS = 10.0
"""Most time for one prompt."""
MAX_CHARACTERS = 2**26
"""Most characters of a prompt, and of any text on the way to it."""
_MAX_BITS = 2**12
"""Of a number: its powers can take minutes otherwise."""

_WIDE = re.compile(r"%[^%a-zA-Z]*(?:[0-9]{5}|\*)")
"""A width in a format with %, or one that is computed."""

_DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def bounded_time() -> Iterator[None]:
    """Let what is rendered inside take no longer than `RENDER_SECONDS`."""
    token = _DEADLINE.set(time.monotonic() + RENDER_SECONDS)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def joined(pieces: Iterable[str]) -> str:
    """What a template writes, piece by piece.

    Raises:
        TemplateError: It is too long, or takes too long.
    """
    out = []
    length = 0
    for piece in _each(pieces):
        length += len(piece)
        _check_length(length)
        out.append(piece)
    return "".join(out)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The environment; see the module."""

    # Also keeps Jinja from computing such expressions when it compiles.
    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, do, Generation]
        )
        self.filters["tojson"] = _to_json
        self.filters["_each"] = _each
        self.filters["_short"] = _short
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        # Jinja's hook between parsing and Python: every loop and every join is bounded here.
        for loop in source.find_all(nodes.For):
            loop.iter = _filtered(loop.iter, "_each")
        for parent in [source, *source.find_all(nodes.Node)]:
            _bound_joins(parent)
        return super()._generate(source, *args, **kwargs)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call what a template calls, in time."""
        _check_time()
        return super().call(*args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right` where the result cannot be huge."""
        if operator == "*":
            _check_product(left, right)
        elif operator == "**":
            _check_power(left, right)
        elif operator == "%" and isinstance(left, str) and _WIDE.search(left):
            raise TemplateError(f"{left[:40]!r} % may make more than {MAX_CHARACTERS} characters")
        return _short(super().call_binop(context, operator, left, right))


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks an answer's text for training."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own form

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The block's body, in its place."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _bound_joins(parent: nodes.Node) -> None:
    """Put a bound around each `a ~ b` right below a node."""
    for name, value in parent.iter_fields():
        if isinstance(value, nodes.Concat):
            setattr(parent, name, _filtered(value, "_short"))
        elif isinstance(value, list):
            value[:] = [_filtered(v, "_short") if isinstance(v, nodes.Concat) else v for v in value]


def _each(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _check_time()
        yield item


def _short(value: Any) -> Any:
    if isinstance(value, str | list | tuple):
        _check_length(len(value))
    return value


def _check_time() -> None:
    deadline = _DEADLINE.get()
    if deadline is not None and time.monotonic() > deadline:
        raise TemplateError(f"it takes longer than {RENDER_SECONDS:g} s")


def _check_length(length: int) -> None:
    if length > MAX_CHARACTERS:
        raise TemplateError(f"it makes more than {MAX_CHARACTERS} characters")


def _check_product(left: Any, right: Any) -> None:
    for factor, times in ((left, right), (right, left)):
        if isinstance(factor, str | list | tuple) and isinstance(times, int):
            _check_length(len(factor) * max(times, 0))
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())


def _check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * max(right, 0))


def _check_bits(n_bits: int) -> None:
    if n_bits > _MAX_BITS:
        raise TemplateError(f"it computes a number of more than {_MAX_BITS} bits")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes <, > and & for HTML. The arguments are those of transformers.
    pair = None if separators is None else (separators[0], separators[1])
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=pair, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
