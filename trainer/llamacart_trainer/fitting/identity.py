"""What a result depends on, as digests by name.

Whatever resumes or reuses an earlier run's work compares these: checkpoints of a fit, trials of a
search. A fact that is left out would let another question's answer pass for this one's.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import platform
import re
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import regex

from llamacart import __version__
from llamacart.machine.tiles import takes_tiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from importlib.resources.abc import Traversable

    from llamacart.llama.model import Model
    from llamacart_trainer.recipe.recipe import Task

LIBRARIES = ("llama-cpp-python", "numpy", "py3langid", "regex", "scipy")
"""Their rounding, or their judgement, is in the results."""

PACKAGES = ("llamacart", "llamacart_trainer")

Facts = dict[str, Any]
"""Name of a fact, for messages → the fact as JSON objects."""


def fit_facts(task: Task, model: Model, limits: Mapping[str, int]) -> Facts:
    """What a fit depends on.

    Args:
        task: The recipe and its data, which count by content.
        model: The model.
        limits: Rows, bytes and threads, on which rounding depends.
    """
    return {
        "recipe": task.recipe.model_dump(mode="json"),
        "data set": task.dataset_hash,
        "model": dataclasses.asdict(model.fingerprint),
        "version": versions(),
        "limit of memory, rows or threads": dict(limits),
        "way of computing": [
            model.batch_invariant,
            model.uses_device,
            model.flash_attention,
            takes_tiles(),
        ],
    }


def versions() -> list[str]:
    """Of this package, its source text, Python and the libraries that compute or judge.

    The source text counts because a version's number stays the same while it is worked on.
    """
    return [
        __version__,
        source_digest(),
        platform.python_version(),
        *(version(name) for name in LIBRARIES),
    ]


@functools.cache
def source_digest() -> str:
    """SHA-256 (hex) over the files of the core and the trainer, packaged texts among them."""
    found = hashlib.sha256()
    for package in PACKAGES:
        for name, content in _walk(files(package), package):
            found.update(f"{name}\0{len(content)}\0".encode())
            found.update(content)
    return found.hexdigest()


def digests(facts: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 (hex) of each fact, to be kept in place of it."""
    return {name: digest(fact) for name, fact in facts.items()}


def digest(fact: Any) -> str:
    """SHA-256 (hex) of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(fact, sort_keys=True).encode()).hexdigest()


def differing(known: Mapping[str, Any], own: Mapping[str, str]) -> list[str]:
    """Names of the facts in which what is kept is of something else, or says nothing."""
    return [name for name, value in own.items() if known.get(name) != value]


def of_function(function: Any) -> Any:
    """What a function computes, as a JSON object: its code, its file and what it holds.

    Two functions that differ in their text, in a value they close over, in a default, in an
    attribute or in the file they come from differ here. What they read while they run (a list of
    words in a file, say) does not count.
    """
    return _plain(function, ())


def _plain(value: Any, above: tuple[int, ...]) -> Any:
    """A JSON object that tells values apart; `above` are the ids of what holds this one."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if id(value) in above:
        return "itself"
    inner = (*above, id(value))
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, list | tuple):
        return [_plain(part, inner) for part in value]
    if isinstance(value, set | frozenset):
        return ["set", sorted((_plain(part, inner) for part in value), key=json.dumps)]
    if isinstance(value, dict):
        pairs = [[_plain(k, inner), _plain(v, inner)] for k, v in value.items()]
        return ["dict", sorted(pairs, key=json.dumps)]
    if isinstance(value, re.Pattern | regex.Pattern):
        return ["pattern", _plain(value.pattern, inner), value.flags]
    if isinstance(value, Path):
        return ["path", str(value)]
    if isinstance(value, ModuleType):
        return ["module", value.__name__]
    if isinstance(value, FunctionType):
        return _function(value, inner)
    if isinstance(value, MethodType):
        return ["method", _plain(value.__func__, inner), _plain(value.__self__, inner)]
    if isinstance(value, BuiltinFunctionType | type):
        return ["name", value.__module__, value.__qualname__, _file_of(value.__module__)]
    if isinstance(value, functools.partial):
        return ["partial", *(_plain(v, inner) for v in (value.func, value.args, value.keywords))]
    held = getattr(value, "__dict__", None)
    # An object whose state cannot be seen is nobody's but its own: its address is in its repr.
    state = object.__repr__(value) if held is None else _plain(held, inner)
    return ["object", _plain(type(value), inner), state]


def _function(function: FunctionType, inner: tuple[int, ...]) -> Any:
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(_plain(cell.cell_contents, inner))
        except ValueError:
            cells.append("empty")
    return [
        *("function", function.__module__, function.__qualname__, _file_of(function.__module__)),
        *(_code(function.__code__, inner), cells),
        *(_plain(function.__defaults__, inner), _plain(function.__kwdefaults__, inner)),
        _plain(vars(function), inner),
    ]


def _code(code: CodeType, inner: tuple[int, ...]) -> Any:
    constants = [
        _code(part, inner) if isinstance(part, CodeType) else _plain(part, inner)
        for part in code.co_consts
    ]
    return [code.co_code.hex(), list(code.co_names), constants]


def _file_of(module: str | None) -> str | None:
    """SHA-256 (hex) of a module's file; None where it has none."""
    path = getattr(sys.modules.get(module or ""), "__file__", None)
    if path is None or not Path(path).is_file():
        return None
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _walk(folder: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the files below, in order; compiled ones are left out."""
    for place in sorted(folder.iterdir(), key=lambda place: place.name):
        path = f"{name}/{place.name}"
        if place.is_file() and not place.name.endswith(".pyc"):
            yield path, place.read_bytes()
        elif place.is_dir() and place.name != "__pycache__":
            yield from _walk(place, path)
