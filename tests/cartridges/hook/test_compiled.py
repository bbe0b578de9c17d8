"""Compiled functions on a machine that has no folder for them."""

import subprocess
import sys
from pathlib import Path

import numba
import pytest

import llamacart
from llamacart.hook import compiled

WITHOUT_FOLDERS = """
from numba.core import caching

caching.CacheImpl._locator_classes = []
import numpy as np

from llamacart.hook import compiled
from llamacart.sampling.candidates import Candidates

assert not compiled.KEEP
candidates = Candidates(300)
assert candidates.scan(np.arange(300, dtype=np.float32)[::-1].copy())
print(candidates.largest())
"""


def test_functions_compile_without_a_folder():
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", WITHOUT_FOLDERS], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def test_whether_code_can_be_kept_is_asked_of_numba(monkeypatch: pytest.MonkeyPatch):
    def refuse(**_options):
        def compile_nothing(_function):
            raise RuntimeError("cannot cache function: no locator available")

        return compile_nothing

    assert compiled.can_keep()
    monkeypatch.setattr(numba, "njit", refuse)
    assert not compiled.can_keep()


def test_no_function_decides_for_itself_whether_it_is_kept():
    package = Path(llamacart.__file__).parent
    own = [path.name for path in package.rglob("*.py") if "cache=True" in path.read_text("utf-8")]
    assert own == ["compiled.py"]
