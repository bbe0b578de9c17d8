"""The page's types of the API: as the API is, and as the page uses them."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from tests.server.page.write_types import PAGE, TYPES, document, types_of


def test_the_types_are_those_of_the_api(client):
    written = TYPES.read_text("utf-8")
    assert written == types_of(document()), "run python tests/server/page/write_types.py"
    assert types_of(client.get("/openapi.json").json()) == written


def test_the_page_asks_for_what_there_is():
    tsc = shutil.which("tsc")
    if tsc is None:
        pytest.skip("there is no tsc: npm install --global typescript")
    command = [tsc, "--project", PAGE / "jsconfig.json"]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stdout
