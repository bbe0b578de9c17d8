"""From a settings class to command-line options and to TOML, so that a setting is declared once."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer
from pydantic import SecretStr

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Option:
    """How a setting is shown to people.

    Attributes:
        panel: Group of options in `--help`.
        help: One sentence.
    """

    panel: str
    help: str


def split_list(value: Any) -> Any:
    """Items of a list setting: given one by one, or joined by commas, or both."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",")]
    if isinstance(value, list | tuple):
        parts = (split_list(item) if isinstance(item, str) else [item] for item in value)
        return [item for part in parts for item in part]
    return value


def option_of(field: FieldInfo) -> Option:
    """What a setting says of itself."""
    for item in field.metadata:
        if isinstance(item, Option):
            return item
    raise TypeError(f"a setting without an Option: {field!r}")


def parameters(settings: type[BaseModel]) -> Iterator[inspect.Parameter]:
    """One keyword parameter for typer for each setting; None means not given."""
    for name, field in settings.model_fields.items():
        option = option_of(field)
        kind = _command_line_type(field.annotation)
        flag = f"--{name.replace('_', '-')}"
        if kind is bool:
            flag += f"/--no-{name.replace('_', '-')}"
        info = typer.Option(
            flag,
            help=option.help,
            rich_help_panel=option.panel,
            show_default=_shown_default(field.default),
            metavar="TEXT" if kind == list[str] else None,
        )
        yield keyword(name, Annotated[kind | None, info], None)


def keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    """A keyword parameter."""
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def set_signature(function: Any, parameters: Iterable[inspect.Parameter]) -> None:
    """Let typer see `parameters` in place of a function's `**given`."""
    given = list(parameters)
    function.__signature__ = inspect.Signature(given)
    function.__annotations__ = {p.name: p.annotation for p in given}


def to_toml(settings: BaseModel) -> str:
    """The settings as a configuration file; what is not set, and secrets, as comments."""
    lines: list[str] = []
    panel = None
    for name, field in type(settings).model_fields.items():
        option = option_of(field)
        if option.panel != panel:
            panel = option.panel
            lines += ["", f"# {panel}"] if lines else [f"# {panel}"]
        value = getattr(settings, name)
        if value is None:
            lines.append(f"# {name} is not set")
        elif _is_secret(value):
            n = len(value) if isinstance(value, tuple) else 1
            lines.append(f"# {name}: {n} given, not shown")
        else:
            lines.append(f"{name} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def _command_line_type(annotation: Any) -> Any:
    """What typer parses; limits are left to pydantic, which names the setting and its variable."""
    choices = [a for a in get_args(annotation) if a is not NoneType]
    if get_origin(annotation) is tuple:
        return list[str]
    if len(choices) == 1 and NoneType in get_args(annotation):
        return _command_line_type(choices[0])
    if get_origin(annotation) is Annotated:
        return _command_line_type(choices[0])
    return annotation if annotation in (bool, int, float, Path) else str


def _shown_default(default: Any) -> str | bool:
    if isinstance(default, bool):
        return "on" if default else "off"
    return False if default in (None, ()) else str(default)


def _is_secret(value: Any) -> bool:
    items = value if isinstance(value, tuple) else (value,)
    return any(isinstance(item, SecretStr) for item in items)


def _toml_value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    # JSON's strings are TOML's, but for DEL.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
