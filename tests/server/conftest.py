"""A server without a model: an engine that says what a test tells it to, on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
import uvicorn

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata, check_fits
from llamacart.chat.templates import choose_template
from llamacart.errors import LlamacartError, NotFoundError
from llamacart.file.writer import write_cartridge
from llamacart_server.app import create_app
from llamacart_server.commands import serve as cli
from llamacart_server.engine.request import GenerationReport, GenerationRequest, TokenEvent
from llamacart_server.engine.stats import EngineStats
from llamacart_server.library.library import CartridgeLibrary
from llamacart_server.middleware import auth
from llamacart_server.served import LoadedModel, ServedModel
from llamacart_server.settings import ServeSettings
from llamacart_server.training import commands

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from llamacart.values.steering import Steering

FIRST_BYTE = 10  # of the fake model's vocabulary
FINGERPRINT = Fingerprint("gemma3", 2, 32, 8, "0123456789abcdef", "Fake 1B")


class FakeGeneration:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.cancelled = threading.Event()
        self.ended = False
        self.finished = False

    @property
    def report(self) -> GenerationReport:
        return self._engine.report

    def cancel(self) -> None:
        if not self.ended:
            self.cancelled.set()

    def finish(self) -> None:
        if not self.ended and not self.cancelled.is_set():
            self.ended = self.finished = True

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        for item in self._engine.script:
            if isinstance(item, Exception):
                raise item
            if isinstance(item, float):
                await asyncio.sleep(item)
                continue
            if callable(item):
                item()
                continue
            self.ended = item.finish_reason is not None
            yield item
            await asyncio.sleep(0)
        while self._engine.hangs and not self.cancelled.is_set():
            await asyncio.sleep(0.005)


class FakeEngine:
    """Gives every request the same answer.

    Its `script` holds events, errors to raise, seconds of silence, and what is called in between.
    With `hangs` an answer goes on for ever behind it.
    """

    def __init__(self) -> None:
        self.loaded: dict[str, Cartridge] = {}
        self.reset()

    def reset(self) -> None:
        self.requests: list[GenerationRequest] = []
        self.generations: list[FakeGeneration] = []
        self.refusals: list[Exception | None] = []
        self.hangs = False
        self.failure: LlamacartError | None = None
        self.report = GenerationReport()
        self.figures = {field.name: 0 for field in fields(EngineStats)}
        self.figures["waiting_cartridges"] = ()
        self.say("hello")

    def stats(self) -> EngineStats:
        return EngineStats(**self.figures)

    def begin(self, work: FakeText) -> Future[np.ndarray]:
        future: Future[np.ndarray] = Future()
        while (vector := work.advance()) is None:
            pass
        work.drop()
        future.set_result(vector)
        return future

    def load(self, cartridge: Cartridge) -> None:
        check_fits(cartridge, FINGERPRINT)
        self.loaded[cartridge.content_hash] = cartridge

    def unload(self, cartridge: Cartridge) -> None:
        if self.loaded.pop(cartridge.content_hash, None) is None:
            raise NotFoundError(f"cartridge {cartridge.name!r} is not loaded")

    def say(self, text: str, *, end: bool = True, limit: bool = False) -> None:
        """Answer with `text`, a byte a token; `limit` ends it as if max_tokens were reached."""
        self.script: list[TokenEvent | Exception | float | Callable[[], object]] = [
            TokenEvent(FIRST_BYTE + byte) for byte in text.encode()
        ]
        if limit:
            last = self.script.pop()
            assert isinstance(last, TokenEvent)
            self.script.append(TokenEvent(last.token, "length"))
        elif end:
            self.script.append(TokenEvent(None, "stop"))

    def submit(self, request: GenerationRequest) -> FakeGeneration:
        refusal = self.refusals.pop(0) if self.refusals else None
        if refusal is not None:
            raise refusal
        self.requests.append(request)
        self.generations.append(FakeGeneration(self))
        return self.generations[-1]


class FakeEmbedder:
    """A text's vector says how many tokens it has and how strong its cartridges are."""

    n_ctx = 64

    def __init__(self) -> None:
        self.log: list[str] = []

    def begin(self, tokens: Sequence[int], steering: Steering) -> FakeText:
        self.log.append("begin")
        alphas = sum(d.alpha for d in steering)
        return FakeText(self, len(tokens), np.array([len(tokens), alphas, 0.5], np.float32))


@dataclass
class FakeText:
    """The work of embedding one text, four tokens a step."""

    embedder: FakeEmbedder
    left: int
    vector: np.ndarray

    def advance(self) -> np.ndarray | None:
        self.embedder.log.append("advance")
        self.left -= 4
        return self.vector if self.left <= 0 else None

    def drop(self) -> None:
        self.embedder.log.append("drop")


def make_cartridge(name: str, default_alpha: float = 1.0) -> Cartridge:
    bias = np.array([len(name)], np.float32)
    layer = LayerMap(0, np.array([3], np.int32), None, bias)
    return Cartridge(
        Metadata(name, f"About {name}.", default_alpha, created="2026-01-02T03:04:05Z"),
        FINGERPRINT,
        (layer,),
    )


@pytest.fixture(scope="session")
def cartridge_named() -> Callable[..., Cartridge]:
    return make_cartridge


@pytest.fixture(scope="session")
def library() -> CartridgeLibrary:
    return CartridgeLibrary([make_cartridge("french", 0.8), make_cartridge("formal")])


@pytest.fixture(scope="session")
def served(fake_model: LoadedModel) -> ServedModel:
    return ServedModel("fake-1b", ("demo",), 512, fake_model, choose_template(fake_model))


@pytest.fixture
def own_log() -> Iterator[None]:
    """Lets a test configure the log of the process."""
    root, ours = logging.getLogger(), logging.getLogger("llamacart_server")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    root.handlers.clear()  # or configuring would close them
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@contextlib.contextmanager
def running(app: object) -> Iterator[str]:
    """The URL of `app` on a live uvicorn in a thread."""
    listener = cli._listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app,
        ws="none",
        log_level="critical",
        timeout_graceful_shutdown=1,
        timeout_keep_alive=600,  # a client's idle connection is closed by the client
        lifespan="on",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
        assert not thread.is_alive()


@pytest.fixture
def serve(library, served) -> Iterator[Callable[..., httpx.Client]]:
    """Function from an engine and settings to a client of a server of its own."""
    with contextlib.ExitStack() as stack:

        def start(engine: FakeEngine, **settings: object) -> httpx.Client:
            app = create_app(engine, library, served, ServeSettings(**settings))
            url = stack.enter_context(running(app))
            return stack.enter_context(httpx.Client(base_url=url, timeout=60))

        yield start


@pytest.fixture(scope="session")
def shared_engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="session")
def embedder() -> FakeEmbedder:
    return FakeEmbedder()


@pytest.fixture(scope="session")
def shared_client(shared_engine, embedder, library, served) -> Iterator[httpx.Client]:
    app = create_app(shared_engine, library, served, ServeSettings(max_queued=4), embedder)
    with running(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture
def engine(shared_engine) -> FakeEngine:
    shared_engine.reset()
    return shared_engine


@pytest.fixture
def client(shared_client, engine) -> httpx.Client:
    """A client of a server around `engine`."""
    return shared_client


@pytest.fixture(scope="session")
def live() -> Callable[[object], contextlib.AbstractContextManager[str]]:
    return running


@pytest.fixture
def impatient(until) -> Iterator[Callable[..., httpx.Client]]:
    """Function to a client that gives up its request, though not before an engine has it.

    It takes the client whose server is asked, the engine and how many generations it must have.
    """
    with contextlib.ExitStack() as stack:

        def make(client: httpx.Client, engine: FakeEngine, count: int = 1) -> httpx.Client:
            def trace(name: str, _info: object) -> None:
                if name.endswith("receive_response_headers.started"):
                    until(lambda: len(engine.generations) >= count)

            def follow(request: httpx.Request) -> None:
                request.extensions["trace"] = trace

            timeout = httpx.Timeout(60, read=0.05)
            hooks = {"request": [follow]}
            return stack.enter_context(
                httpx.Client(base_url=client.base_url, timeout=timeout, event_hooks=hooks)
            )

        yield make


@pytest.fixture
def still_clock(monkeypatch) -> None:
    """No time passes for rate limits."""
    monkeypatch.setattr(auth, "RateLimit", partial(auth.RateLimit, clock=lambda: 0.0))


# --- a trainer -----------------------------------------------------------------------------------

FAKE_TRAINER = """
import os, pathlib, shutil, signal, sys, time
command, *rest = sys.argv[1:]
given = dict(word.removeprefix("--").split("=", 1) for word in rest if word.startswith("--"))
(recipe,) = [word for word in rest if not word.startswith("--")] or [""]
text = given.get("prompt") or given.get("pairs") or pathlib.Path(recipe, "facts.jsonl")
said = pathlib.Path(text).read_bytes().decode()
folder = pathlib.Path(MADE).parent
(folder / "called.txt").write_text("\\n".join(sys.argv[1:]), "utf-8")
(folder / "environment.txt").write_text("\\n".join(os.environ), "utf-8")
print("load the model: 0:01 so far", flush=True)
print("train: layer 1 of 4, 25 %, 0:09 left", flush=True)
if "fail" in said:
    print(f"error: {text} line 1: no 'target'", file=sys.stderr)
    sys.exit(2)
if "die" in said:
    os.kill(os.getpid(), signal.SIGKILL)
(folder / "running").touch()
while "wait" in said and not (folder / "go").exists():
    time.sleep(0.01)
shutil.copyfile(MADE, given["output"])
"""


@pytest.fixture
def trainer(tmp_path, cartridge_named, monkeypatch) -> Path:
    """The folder by which a test talks to the trainer, another process that does as it is told.

    It fails where it is to learn a text with `fail`, is killed by one with `die`, and behind `wait`
    waits for a file `go`.
    """
    folder = tmp_path / "trainer"
    folder.mkdir()
    made = folder / "made.gguf"
    write_cartridge(cartridge_named("made", 0.5), made)
    script = folder / "trainer.py"
    script.write_text(f"MADE = {str(made)!r}\n{FAKE_TRAINER}", "utf-8")
    monkeypatch.setattr(commands, "PROGRAM", (sys.executable, str(script)))
    return folder
