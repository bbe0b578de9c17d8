"""The shape of the tree: tests lie as the sources do, no file is long, no folder is full."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGES = {
    "cartridges": ROOT / "cartridges" / "llamacart",
    "trainer": ROOT / "trainer" / "llamacart_trainer",
    "server": ROOT / "server" / "llamacart_server",
}
SOURCES = PACKAGES | {"benchmarks": ROOT / "benchmarks", "docs": ROOT / "docs"}
WITHOUT_SOURCE = {"conformance"}
"""Programs that are run by hand; their README says how."""
MAX_LINES = 600
MAX_MODULES = 20


def folders(root: Path) -> list[Path]:
    """`root` and the folders of modules below it."""
    return [root, *sorted({path.parent for path in root.rglob("*.py")} - {root})]


def source_of(folder: Path) -> Path:
    """The source folder that a folder of tests is about."""
    first, *rest = folder.relative_to(TESTS).parts
    return SOURCES.get(first, ROOT / first).joinpath(*rest)


def test_no_test_file_is_longer_than_600_lines() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in TESTS.rglob("*.py")
    }
    assert lengths[f"{TESTS.name}/{Path(__file__).name}"] > 1
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


@pytest.mark.parametrize("name", [*PACKAGES, "benchmarks"])
def test_no_source_folder_has_more_than_20_modules(name: str) -> None:
    counts = {str(path): len(list(path.glob("*.py"))) for path in folders(SOURCES[name])}
    assert any(counts.values())
    assert {path: n for path, n in counts.items() if n > MAX_MODULES} == {}


def test_each_folder_of_tests_has_a_source_folder_of_its_name() -> None:
    found = [f for f in folders(TESTS)[1:] if f.name not in WITHOUT_SOURCE]
    assert len(found) > len(SOURCES)
    assert [str(f.relative_to(ROOT)) for f in found if not source_of(f).is_dir()] == []


def test_a_test_module_that_no_module_is_called_like_says_what_it_tests() -> None:
    silent = []
    for path in TESTS.rglob("test_*.py"):
        name = path.stem.removeprefix("test_")
        source = source_of(path.parent) if path.parent != TESTS else ROOT
        own = (source / f"{name}.py").exists() or (source / name / "__init__.py").exists()
        if not own and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))):
            silent.append(str(path.relative_to(ROOT)))
    assert silent == []
