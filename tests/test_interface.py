"""What the three packages offer: complete, typed, and imported only when it is used."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import llamacart
import llamacart_server
import llamacart_trainer
from llamacart import errors

PACKAGES = [llamacart, llamacart_trainer, llamacart_server]
HEAVY = ("llama_cpp", "numba", "scipy", "fastapi", "jinja2")


def typed_names(package: ModuleType) -> dict[str, str]:
    """Name → module, as type checkers read them."""
    tree = ast.parse(Path(package.__file__ or "").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.name: node.module or ""
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.__name__)
class TestEveryPackage:
    def test_its_three_lists_of_names_agree(self, package: ModuleType) -> None:
        homes = {name: module for module, names in package._HOMES.items() for name in names}
        assert homes == typed_names(package)
        assert sorted(homes) == sorted(set(package.__all__) - {"__version__"})

    def test_every_name_is_there(self, package: ModuleType) -> None:
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                assert value.__module__ == typed_names(package)[name], f"{name} is not its own"
        assert set(package.__all__) <= set(dir(package))

    def test_an_unknown_name_is_an_attribute_error(self, package: ModuleType) -> None:
        with pytest.raises(AttributeError, match=r"llamacart.* has no attribute 'absent'"):
            _ = package.absent

    def test_no_name_is_hidden_by_a_module(self, package: ModuleType) -> None:
        modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
        assert not modules & set(package.__all__)


def classes_of(package: ModuleType) -> set[str]:
    """Public classes that a package defines."""
    names = set()
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        source = Path(importlib.util.find_spec(module.name).origin or "")
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                names.add(node.name)
    return names


@pytest.mark.parametrize("package", [llamacart, llamacart_trainer], ids=lambda p: p.__name__)
def test_whoever_takes_a_name_can_take_what_its_signature_names(package: ModuleType) -> None:
    known = classes_of(package) | classes_of(llamacart)
    offered = {*package.__all__, *llamacart.__all__}
    missing = {}
    for name in package.__all__:
        value = getattr(package, name)
        if callable(value) and str(value.__module__).startswith("llamacart"):
            signature = inspect.signature(value)
            named = [p.annotation for p in signature.parameters.values()]
            words = set(
                re.findall(r"\w+", " ".join(map(str, [*named, signature.return_annotation])))
            )
            if words & known - offered:
                missing[name] = words & known - offered
    assert not missing, dict(missing)


def test_every_error_of_the_core_is_offered() -> None:
    own = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.LlamacartError)
    }
    assert own <= set(llamacart.__all__)


@pytest.mark.parametrize(
    "imports",
    [
        "import llamacart, llamacart_trainer, llamacart_server",
        "from llamacart import Cartridge, Dose, DenseMap, Fault, LlamacartError, read_cartridge",
        "from llamacart import write_cartridge, StepReport, resolve_model",
        "from llamacart_trainer import Recipe, TextPair, load_task, make_task",
        "import llamacart.cartridge, llamacart.errors, llamacart.disk.text, llamacart.disk.whole",
        "from llamacart.file import format, reader, storage, validator, writer",
        "import llamacart.hook.control, llamacart.hook.memory, llamacart.llama.sites",
        "from llamacart.json_grammar import ends, keywords, references, rewriter, schema",
        "from llamacart.values import batch, logprobs, report, sampling, steering, tokenizer",
        "from llamacart_server.engine import engine, limits, plan, request, scheduler, sequence",
        "from llamacart_server.engine.kv import actions, cells, host_tier, prefix_cache, rows",
        "from llamacart_server.library import library, selection",
    ],
)
def test_values_load_no_engine(imports: str) -> None:
    program = f"import sys; {imports}; print(sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("room", ["bodies", "library", "middleware", "responses", "routes"])
def test_rooms_that_only_describe_or_answer_load_no_engine(room: str) -> None:
    """They load FastAPI and Jinja, and neither llama.cpp nor the compiler."""
    program = (
        "import pkgutil, sys; from importlib import import_module;"
        f"room = import_module('llamacart_server.{room}');"
        "names = [m.name for m in pkgutil.iter_modules(room.__path__, f'{room.__name__}.')];"
        "print(len([import_module(name) for name in names]) > 2,"
        "sorted(set(sys.modules) & {'llama_cpp', 'numba'}))"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "True []\n", done.stderr
