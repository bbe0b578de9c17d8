r"""What it costs to be told each token's dose: tokens a second of several streams at once.

Takes the address of a running server, and asks it in turn for the same streams without
`telemetry`, with `"telemetry": "tokens"`, and as the playground asks (each token's likeliest too).
With `--earlier` a server of an earlier state of the tree takes its turns as well, and is asked
without. Start both on one machine, each from its own tree and its own PYTHONPATH, for example

    git worktree add /tmp/earlier c7bcf01^   # the commit before telemetry of tokens
    llamacart serve --model demo --cartridges demo --ctx 8192 --port 8080
    (cd /tmp/earlier; llamacart serve --model demo --cartridges DEMO --ctx 8192 --port 8090)
    python benchmarks/telemetry.py http://127.0.0.1:8080 --earlier http://127.0.0.1:8090

Streams are steered by the server's first cartridge, greedy, and ignore the end of text. Every way
has prompts of its own in every turn, or it would find them in the prefix cache. A turn's figure is
all streams' tokens over the time until the last of them has ended.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
from harness import (
    Comparison,
    Report,
    add_run_options,
    alternate,
    check_status,
    machine_facts,
    stream_events,
)
from versus_llama_server import prompts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NOT_ASKED = "not asked"
WAYS: dict[str, dict[str, Any]] = {
    NOT_ASKED: {},
    "tokens": {"telemetry": "tokens"},
    "as the playground": {"telemetry": "tokens", "logprobs": 8},
}
EARLIER = "earlier, not asked"


@dataclass(frozen=True)
class Way:
    """Whom to ask, and for what.

    Attributes:
        client: Bound to the server's address.
        model: The base model with a cartridge.
        extra: Fields of the request.
    """

    client: httpx.AsyncClient
    model: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def body(self, prompt: str, n_tokens: int) -> dict[str, Any]:
        """A request for a stream of exactly so many tokens."""
        return {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": n_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra,
        }

    async def rate(self, prompts: list[str], n_tokens: int) -> float:
        """Tokens a second of one stream for each prompt, all at once."""
        start = time.perf_counter()
        counts = await asyncio.gather(*(self._count(self.body(p, n_tokens)) for p in prompts))
        seconds = time.perf_counter() - start
        short = [count for count in counts if count != n_tokens]
        if short:
            raise SystemExit(f"{self.client.base_url} gave {short[0]} tokens, not {n_tokens}")
        return sum(counts) / seconds

    async def _count(self, body: dict[str, Any]) -> int:
        tokens = told = 0
        async with self.client.stream("POST", "/v1/completions", json=body) as answer:
            await check_status(answer)
            async for event in stream_events(answer):
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
                told += sum(told_of(choice) for choice in event["choices"])
        if told != (tokens if "telemetry" in body else 0):
            raise SystemExit(f"{self.client.base_url} told the dose of {told} of {tokens} tokens")
        return tokens


def told_of(choice: Mapping[str, Any]) -> int:
    """Tokens whose dose a choice of an event tells."""
    return len((choice.get("telemetry") or {}).get("tokens") or ())


def steered_model(cards: list[dict[str, Any]]) -> str:
    """The first model id with a cartridge of those that /v1/models lists."""
    steered = [card["id"] for card in cards if card["parent"] is not None]
    if not steered:
        raise SystemExit("the server has no cartridge: start it with --cartridges")
    return str(steered[0])


async def open_ways(options: argparse.Namespace, owned: AsyncExitStack) -> dict[str, Way]:
    """Every way to ask, by name; the first is what the others are divided by."""

    async def opened(url: str) -> tuple[httpx.AsyncClient, str]:
        client = await owned.enter_async_context(
            httpx.AsyncClient(base_url=url.rstrip("/"), timeout=None)  # noqa: S113 - it may be busy
        )
        answer = await client.get("/v1/models")
        await check_status(answer)
        return client, steered_model(answer.json()["data"])

    server = await opened(options.url)
    ways = {name: Way(*server, extra) for name, extra in WAYS.items()}
    if options.earlier is not None:
        ways[EARLIER] = Way(*await opened(options.earlier))
    return ways


def compare(
    ways: Mapping[str, Way], loop: asyncio.Runner, options: argparse.Namespace
) -> Comparison:
    """Let the ways take turns."""
    turns = itertools.count()

    def in_turn(way: Way) -> Callable[[], float]:
        return lambda: loop.run(way.rate(prompts_of(next(turns), options.streams), options.tokens))

    samples = alternate({name: in_turn(way) for name, way in ways.items()}, options.repeats)
    title = f"{options.streams} streams of {options.tokens} tokens"
    return Comparison(title, "tokens/s", NOT_ASKED, samples)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", metavar="URL")
    parser.add_argument("--earlier", metavar="URL", help="a server of an earlier tree")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96, help="tokens a stream")
    parser.add_argument("--threads", type=int, help="of the servers, as started: only noted")
    add_run_options(parser, repeats=9)
    options = parser.parse_args()
    with asyncio.Runner() as loop:
        owned = AsyncExitStack()
        try:
            ways = loop.run(open_ways(options, owned))
            about = {"model": ways[NOT_ASKED].model}
            report = Report(machine_facts(options.threads) | about, options.json)
            report.compare(compare(ways, loop, options))
            report.write()
        finally:
            loop.run(owned.aclose())


if __name__ == "__main__":
    main()
