"""Embeddings on the engine's thread: what a cancel leaves behind for whoever comes next."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.errors import OverloadedError
from llamacart.passes.embedding import Embedder
from llamacart.runner import LlamaRunner
from llamacart.values.steering import Dose
from llamacart_server.engine.engine import Engine
from llamacart_server.routes.embeddings import EmbeddingLane


class SlowEmbedder:
    """A step of a text whose first token is 1 lasts until `go` is set; vectors are sums."""

    n_ctx = 64

    def __init__(self):
        self.go, self.inside = threading.Event(), threading.Event()
        self.open = 0

    def begin(self, tokens, steering):
        return SlowText(self, tokens)


class SlowText:
    def __init__(self, embedder, tokens):
        self.embedder, self.tokens = embedder, list(tokens)
        self.sum = np.zeros(1, np.float32)
        self.steps = 0

    def advance(self):
        if not self.steps:
            self.embedder.open += 1
            assert self.embedder.open == 1, "two texts at once"
        self.steps += 1
        if self.tokens[0] == 1:
            self.embedder.inside.set()
            assert self.embedder.go.wait(60)
        for _ in range(min(4, len(self.tokens))):
            self.sum += self.tokens.pop()
        return None if self.tokens else self.sum

    def drop(self):
        self.embedder.open -= bool(self.steps)
        self.steps = 0


def in_thread(event):
    return asyncio.get_running_loop().run_in_executor(None, event.wait, 60)


def test_a_cancel_in_the_middle_of_a_step_adds_nothing_to_the_next_text(fakes):
    embedder = SlowEmbedder()

    async def main(lane):
        first = asyncio.ensure_future(lane.embed([[1] * 9, [3]], ()))
        await in_thread(embedder.inside)
        first.cancel()
        second = asyncio.ensure_future(lane.embed([[2, 2, 2, 2, 2], [5]], ()))
        with pytest.raises(asyncio.CancelledError):
            await first
        embedder.go.set()
        assert [vector.tolist() for vector in await second] == [[10.0], [5.0]]

    with Engine(fakes.Runner()) as engine:
        asyncio.run(main(EmbeddingLane(embedder, engine, 4)))
    assert embedder.open == 0


def test_what_was_cancelled_waits_no_more(fakes):
    embedder = SlowEmbedder()

    async def main(lane):
        first = asyncio.ensure_future(lane.embed([[1] * 9] * 4, ()))
        await in_thread(embedder.inside)
        with pytest.raises(OverloadedError, match="4 texts wait"):
            await lane.embed([[2]], ())
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = asyncio.ensure_future(lane.embed([[2]], ()))
        await asyncio.sleep(0)
        embedder.go.set()
        assert [vector.tolist() for vector in await second] == [[2.0]]

    with Engine(fakes.Runner()) as engine:
        asyncio.run(main(EmbeddingLane(embedder, engine, 4)))


async def refuses(engine, work):
    """Wait until the engine takes no more work."""
    while True:
        try:
            engine.begin(work).cancel()
        except OverloadedError:
            return
        await asyncio.sleep(0.001)


def test_the_engines_end_is_told(fakes):
    async def main(engine, lane):
        first = asyncio.ensure_future(lane.embed([[1] * 9], ()))
        await in_thread(embedder.inside)
        stopped = asyncio.get_running_loop().run_in_executor(None, engine.stop)
        await refuses(engine, SlowText(embedder, [2]))
        embedder.go.set()
        for told in (first, lane.embed([[2] * 64] * 3, ())):
            with pytest.raises(OverloadedError):
                await told
        await stopped

    embedder = SlowEmbedder()
    engine = Engine(fakes.Runner())
    engine.start()
    asyncio.run(main(engine, EmbeddingLane(embedder, engine, 4)))


def hold_after(embedder, n_steps):
    """Have the embedder stop behind so many steps of what comes next; events: it has, go on."""
    inside, go = threading.Event(), threading.Event()
    steps = iter(range(n_steps - 1, -1, -1))

    def held(text):
        vector = type(embedder).advance(embedder, text)
        if next(steps, None) == 0:
            inside.set()
            assert go.wait(60)
        return vector

    embedder.advance = held
    return inside, go


@pytest.mark.model
@pytest.mark.parametrize("steered", [False, True])
def test_a_text_after_a_cancelled_one_is_right(demo_model, steered):
    neurons = np.arange(64, dtype=np.int32)
    shift = LayerMap(3, neurons, None, np.full(64, 5.0, np.float32))
    cartridge = Cartridge(Metadata("shift"), demo_model.fingerprint, (shift,))
    steering = (Dose(cartridge, 1.0),) if steered else ()
    long = demo_model.tokenize("The quick brown fox jumps over the lazy dog. " * 8)[:80]
    text = demo_model.tokenize("Photosynthesis turns light into sugar in every green leaf. ")

    async def main(engine, lane):
        (right,) = await lane.embed([text], steering)
        for number in range(2):
            inside, go = hold_after(embedder, number + 1)
            cancelled = asyncio.ensure_future(lane.embed([long], steering))
            await in_thread(inside)
            assert embedder._current
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            go.set()
            if steered:
                engine.load(cartridge)
                engine.unload(cartridge)
            (vector,) = await lane.embed([text], steering)
            np.testing.assert_array_equal(vector, right)
        assert not embedder._hook._residents

    runner = LlamaRunner(demo_model, n_ctx=64, n_batch=32, n_sequences=2, n_threads=1)
    embedder = Embedder(demo_model, n_ctx=256, n_threads=1)
    with runner, embedder, Engine(runner) as engine:
        asyncio.run(main(engine, EmbeddingLane(embedder, engine, 4)))
