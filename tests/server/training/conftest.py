"""The admin's client of a server that trains."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import httpx
import pytest

from llamacart_server.app import create_app
from llamacart_server.library.library import CartridgeLibrary
from llamacart_server.settings import ServeSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = {"X-Api-Key": "boss"}


@pytest.fixture
def training(engine, served, live, trainer) -> Iterator[Callable[..., httpx.Client]]:
    """Function from settings to the admin's client of a server that trains."""
    with ExitStack() as stack:

        def start(**settings: object) -> httpx.Client:
            given = {"admin_key": "boss", "train_jobs": True, "threads": 4} | settings
            app = create_app(engine, CartridgeLibrary(), served, ServeSettings(**given))
            url = stack.enter_context(live(app))
            return stack.enter_context(httpx.Client(base_url=url, timeout=60, headers=KEY))

        yield start
