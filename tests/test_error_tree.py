"""The tree of errors that `llamacart.errors` draws is the one that there is."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from http import HTTPStatus

import pytest

import llamacart
import llamacart_server
import llamacart_trainer
from llamacart import errors
from llamacart.errors import LlamacartError

LINE = re.compile(r"^ {4}(?P<lead>[│├└─ ]*)(?P<name>\w+Error) +(?P<status>\d+)  (?P<text>.+)$")
INDENT = 4
SIGNALS = {"ClientGoneError", "_TwiceError"}
"""Exceptions that tell one part of a package something; no caller and no client sees them."""


def drawn() -> dict[str, tuple[str | None, int, str]]:
    """Name → (parent, status, what is said of it)."""
    found: dict[str, tuple[str | None, int, str]] = {}
    branch: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := LINE.match(line):
            depth, name = len(match["lead"]) // INDENT, match["name"]
            assert name not in found, f"{name} is drawn twice"
            assert depth <= len(branch), f"{name} hangs in the air"
            branch[depth:] = [name]
            parent = branch[depth - 1] if depth else None
            found[name] = (parent, int(match["status"]), match["text"])
    return found


OF_EXTRAS = {"llamacart_server.ray_app.app": "ray"}
"""Modules that import what only an extra brings; they define no error."""


def all_modules() -> list[str]:
    """Every module of the three packages, imported; those of an extra where it is installed."""
    names = [
        module.name
        for package in (llamacart, llamacart_trainer, llamacart_server)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not module.name.endswith("__main__")
        and importlib.util.find_spec(OF_EXTRAS.get(module.name, "re")) is not None
    ]
    for name in names:
        importlib.import_module(name)
    return names


def below(base: type[BaseException]) -> set[type[BaseException]]:
    """The classes of the three packages that inherit from `base`; those of tests are not."""
    found = {base} if base.__module__.startswith("llamacart") else set()
    for child in base.__subclasses__():
        found |= below(child)
    return found


@pytest.fixture(scope="module")
def classes() -> dict[str, type[LlamacartError]]:
    all_modules()
    found = [c for c in below(LlamacartError) if issubclass(c, LlamacartError)]
    assert len({c.__name__ for c in found}) == len(found), "two errors have one name"
    return {c.__name__: c for c in found}


def test_the_drawing_is_complete(classes: dict[str, type[LlamacartError]]) -> None:
    assert set(drawn()) == set(classes)


def test_each_error_hangs_where_it_is_drawn(classes: dict[str, type[LlamacartError]]) -> None:
    parents = {name: parent for name, (parent, _, _) in drawn().items() if parent}
    assert parents == {
        name: found.__bases__[0].__name__
        for name, found in classes.items()
        if found is not LlamacartError
    }


def test_each_error_has_the_status_and_the_exit_code_drawn(
    classes: dict[str, type[LlamacartError]],
) -> None:
    for name, (_, status, text) in drawn().items():
        assert classes[name].status == status, name
        assert HTTPStatus(status) >= HTTPStatus.BAD_REQUEST, name
        code = re.search(r"exit (\d+)", text)
        assert classes[name].exit_code == (int(code[1]) if code else 2), name


def test_each_error_is_defined_where_the_drawing_says(
    classes: dict[str, type[LlamacartError]],
) -> None:
    for name, (_, _, text) in drawn().items():
        room = re.search(r"\[(.+)\]$", text)
        home = f"llamacart_server.{room[1]}" if room else "llamacart.errors"
        assert classes[name].__module__ == home, name


def test_what_is_not_in_the_tree_is_a_signal_inside_a_package() -> None:
    modules = set(all_modules())
    others = {
        found.__name__
        for found in below(Exception)
        if found.__module__ in modules and not issubclass(found, LlamacartError)
    }
    assert others == SIGNALS
