"""A browser, and pages of servers: of a random model with two cartridges, and of fakes."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.file.writer import write_cartridge
from llamacart_server.app import create_app
from llamacart_server.commands import serve as cli
from llamacart_server.library.library import CartridgeLibrary
from llamacart_server.settings import ServeSettings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page

PATIENCE_MS = 30_000
"""A busy machine is no failure."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; not for the whole run, for what drives it has an event loop in this thread."""
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    path = next(filter(None, found), None)
    if path is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page, what it complained of and what it asked other hosts for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def send(self, text: str) -> None:
        """Send a text and wait for all answers."""
        self.page.fill("#prompt", text)
        self.page.click("#send")
        self.wait()

    def wait(self) -> None:
        """Wait until nothing is generated any more."""
        self.page.wait_for_selector("#send:enabled")

    def texts(self) -> list[str]:
        """The texts of all answers."""
        return self.page.locator(".answer .text").evaluate_all("all => all.map(e => e.textContent)")

    def set(self, **fields: str) -> None:
        """Fill in settings."""
        if self.page.locator("#settings[open]").count() == 0:
            self.page.click("#settings summary")
        for name, value in fields.items():
            self.page.fill(f"#{name}", value)
            self.page.locator(f"#{name}").blur()


@pytest.fixture
def visit(browser) -> Iterator[Callable[..., Visit]]:
    """Function from a URL to its page; options are those of a browser's context."""
    visits: list[Visit] = []
    with ExitStack() as stack:

        def go(url: str, *, waits_for: str = ".head", **options: object) -> Visit:
            context = stack.enter_context(browser.new_context(**options))
            context.set_default_timeout(PATIENCE_MS)
            visit = Visit(context.new_page())
            visits.append(visit)
            own = urlsplit(url).netloc
            visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
            visit.page.on("console", lambda said: visit.complaints.append(said.text))
            visit.page.on(
                "request",
                lambda asked: (
                    own == urlsplit(asked.url).netloc or visit.elsewhere.append(asked.url)
                ),
            )
            visit.page.goto(url)
            visit.page.wait_for_selector(waits_for)
            return visit

        yield go
        for visit in visits:
            assert visit.elsewhere == []


@pytest.fixture(scope="module")
def tiny_url(tmp_path_factory, tiny_path, tiny_model, live) -> Iterator[str]:
    """A server of a random model whose cartridges `up` and `warp` act at two layers."""
    folder = tmp_path_factory.mktemp("cartridges")
    for seed, name in enumerate(("up", "warp")):
        rng = np.random.default_rng(seed)
        layers = tuple(
            LayerMap(
                layer,
                np.arange(32, dtype=np.int32),
                None,
                rng.normal(size=32).astype(np.float32) * 2,
            )
            for layer in (0, 1)
        )
        metadata = Metadata(name, f"Goes {name}.", created="2026-01-02T03:04:05Z")
        write_cartridge(
            Cartridge(metadata, tiny_model.fingerprint, layers), folder / f"{name}.gguf"
        )
    settings = load_settings(model=str(tiny_path()), cartridges=folder, ctx=4096, threads=1)
    with ExitStack() as owned:
        app, _, _ = cli.build(settings, owned)
        yield owned.enter_context(live(app))


@pytest.fixture
def fake_url(engine, library, served, live) -> Iterator[Callable[..., str]]:
    """Function from settings to the URL of a server around `engine`, which does as it is told."""
    with ExitStack() as stack:

        def start(*, weights_hash: str = "", **settings: object) -> str:
            own = CartridgeLibrary(library)  # a test may change it
            model = replace(served, weights_hash=weights_hash)
            app = create_app(engine, own, model, ServeSettings(**settings))
            return stack.enter_context(live(app))

        yield start
