r"""Throughput against llama.cpp's own llama-server: same model, same threads, same prompts.

Start both on the same machine, each with its defaults but for what makes them alike (MODEL is the
same file; the demo's lies in ~/.cache/llamacart):

    llama-server -m MODEL -t 2 -np 16 -c 8192 --cache-ram 0 --port 8090
    llamacart serve --model MODEL --threads 2 --parallel 16 --ctx 8192 --cartridges demo --port 8080
    python benchmarks/versus_llama_server.py --ours http://127.0.0.1:8080 \
        --llama-server http://127.0.0.1:8090

1, 4 and 16 clients at once ask /v1/completions for 96 tokens each, greedy, end of text ignored. The
two servers take turns with the same prompts; every turn has new ones that part within the first
words, and llama-server is sent `cache_prompt: false`, so that neither reads a prompt from a
cache. Tokens are those of `usage`; a turn's figure is all clients' tokens over the time until the
last has its answer. By default answers come whole, which compares the engines; `--stream` has them
streamed, as chats are, and adds the cost of an event a token.

`--adapters` adds: all clients with one adapter; every client with one of its own; and, with two
clients that start at once with different adapters, the time until the later one has its first
token. Ours is sent `model: base:cartridge@α`, llama-server `lora: [{"id": 0, "scale": α}]`; clients
differ in α (it batches requests only where id and scale agree). Make a LoRA of the cartridge and
start llama-server with it:

    llamacart export demo/french.gguf --to gguf-lora --alpha 1 -o french-lora.gguf
    llama-server -m MODEL -t 2 -np 16 -c 8192 --cache-ram 0 --port 8090 --lora french-lora.gguf

Requests without an adapter then name it at scale 0, at which llama.cpp leaves it out of the graph.

Where llama-server has several LoRAs, every client has a file of its own, on ours a cartridge of its
own, in the order of their ids; all act at 1. `--agree` adds how many greedy texts are the same on
both servers, without an adapter and with each. With LoRAs that are exactly the cartridges:

    python benchmarks/models/exact_adapters.py demo/french.gguf FOLDER
    llama-server … --lora FOLDER/loras/french-00.gguf,FOLDER/loras/french-01.gguf,…
    llamacart serve … --cartridges FOLDER/cartridges

By default this project computes on the CPU without llama.cpp's repacked and tiled kernels; to
compare with the same kernels on both sides start it with `--no-batch-invariant` and
GGML_CPU_TILED_MM=1.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
from harness import (
    TEXT,
    Comparison,
    Report,
    add_run_options,
    alternate,
    check_status,
    machine_facts,
    stream_events,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OURS, THEIRS = "llamacart", "llama-server"
PROMPT_WORDS = 24


@dataclass(frozen=True)
class Outcome:
    """What one client got.

    Attributes:
        tokens: As `usage` counts them.
        first: Seconds until the first piece of text; None where the answer came whole.
        text: The answer; empty where it was streamed.
    """

    tokens: int
    first: float | None
    text: str = ""


Adapter = tuple[int, float]
"""Which of a server's adapters, counted from 0, and its strength."""


@dataclass
class Server:
    """One of the two.

    Attributes:
        name: `OURS` or `THEIRS`.
        client: Bound to its address.
        base: The unsteered model's id.
        adapters: Ours: ids of cartridges; theirs: of LoRAs.
    """

    name: str
    client: httpx.AsyncClient
    base: str
    adapters: list[str] | list[int]

    def body(self, prompt: str, n_tokens: int, adapter: Adapter | None) -> dict[str, Any]:
        """A request: greedy, of exactly `n_tokens`, under an adapter if there is one."""
        body: dict[str, Any] = {
            "model": self.base,
            "prompt": prompt,
            "max_tokens": n_tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        if self.name == THEIRS:
            body |= {"n_predict": n_tokens, "cache_prompt": False}
            # One that is not named acts at the scale it was loaded with, so 0 is said too.
            scales = dict.fromkeys(self.adapters, 0.0)
            if adapter is not None:
                scales[self.adapters[adapter[0]]] = adapter[1]
            body["lora"] = [{"id": lora, "scale": scale} for lora, scale in scales.items()]
        elif adapter is not None:
            body["model"] = f"{self.base}:{self.adapters[adapter[0]]}@{adapter[1]}"
        return body

    async def ask(self, body: dict[str, Any], *, stream: bool) -> Outcome:
        """Send a request and read all of its answer."""
        if not stream:
            answer = await self.client.post("/v1/completions", json=body)
            await check_status(answer)
            said = answer.json()
            return Outcome(said["usage"]["completion_tokens"], None, said["choices"][0]["text"])
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        start, first, tokens = time.perf_counter(), None, 0
        async with self.client.stream("POST", "/v1/completions", json=body) as answer:
            await check_status(answer)
            async for event in stream_events(answer):
                if first is None and any(choice["text"] for choice in event["choices"]):
                    first = time.perf_counter() - start
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        return Outcome(tokens, first)


def prompts_of(turn: int, count: int) -> list[str]:
    """Prompts of one length in words that no other turn or client has."""
    words = TEXT.split()
    return [
        " ".join(random.Random(f"{turn}/{i}").sample(words, PROMPT_WORDS)) for i in range(count)
    ]


def strengths_of(count: int) -> list[float]:
    """As many different strengths from 0.6 to 1."""
    return [round(0.6 + 0.4 * (i + 1) / count, 4) for i in range(count)]


def own_adapters(count: int, there: int) -> list[Adapter]:
    """An adapter for each client: of its own where `there` are several, else of a strength so."""
    if there == 1:
        return [(0, strength) for strength in strengths_of(count)]
    return [(number % there, 1.0) for number in range(count)]


async def ask_all(
    server: Server,
    turn: int,
    adapters: Sequence[Adapter | None],
    n_tokens: int,
    *,
    stream: bool,
) -> tuple[float, list[Outcome]]:
    """One client for each adapter, all at once: seconds in all, and what each got."""
    prompts = prompts_of(turn, len(adapters))
    bodies = [server.body(p, n_tokens, a) for p, a in zip(prompts, adapters, strict=True)]
    start = time.perf_counter()
    outcomes = await asyncio.gather(*(server.ask(body, stream=stream) for body in bodies))
    seconds = time.perf_counter() - start
    short = [outcome.tokens for outcome in outcomes if outcome.tokens != n_tokens]
    if short:
        raise SystemExit(f"{server.name} gave {short[0]} tokens instead of {n_tokens}")
    return seconds, outcomes


class Match:
    """Lets the two servers take turns.

    Args:
        servers: Both.
        loop: Where their clients live.
        options: `tokens`, `stream` and `repeats`.
    """

    def __init__(
        self, servers: Sequence[Server], loop: asyncio.Runner, options: argparse.Namespace
    ) -> None:
        self._servers, self._loop, self._options = servers, loop, options
        self._n_tokens: int = options.tokens
        self.n_adapters = min(len(server.adapters) for server in servers)
        self._sections = itertools.count()

    def throughput(self, title: str, adapters: Sequence[Adapter | None]) -> Comparison:
        """Tokens a second of all clients together."""
        n_tokens, stream = self._n_tokens, self._options.stream

        def rate(server: Server, turn: int) -> float:
            work = ask_all(server, turn, adapters, n_tokens, stream=stream)
            seconds, _ = self._loop.run(work)
            return n_tokens * len(adapters) / seconds

        clients = f"{len(adapters)} client{'s' * (len(adapters) != 1)}"
        return self._compare(f"{clients}, {title}", "tokens/s", rate)

    def later_first_token(self) -> Comparison:
        """Seconds until the later of two clients with different adapters has a token."""

        def latest(server: Server, turn: int) -> float:
            two = own_adapters(2, self.n_adapters)
            work = ask_all(server, turn, two, self._n_tokens, stream=True)
            _, outcomes = self._loop.run(work)
            return max(outcome.first or 0.0 for outcome in outcomes)

        return self._compare(
            "2 clients with different adapters: first token of the later one", "seconds", latest
        )

    def agreement(self, adapters: Sequence[Adapter | None]) -> int:
        """Greedy texts that are the same on both servers, one for each adapter."""
        turn = 1000 * next(self._sections)
        texts = []
        for server in self._servers:
            work = ask_all(server, turn, adapters, self._n_tokens, stream=False)
            texts.append([outcome.text for outcome in self._loop.run(work)[1]])
        return sum(ours == theirs for ours, theirs in zip(*texts, strict=True))

    def _compare(
        self, title: str, unit: str, measure: Callable[[Server, int], float]
    ) -> Comparison:
        section = next(self._sections)

        def in_turn(server: Server) -> Callable[[], float]:
            # Each server counts its turns, so that both get the same prompts.
            turns = itertools.count(1000 * section)
            return lambda: measure(server, next(turns))

        variants = {server.name: in_turn(server) for server in self._servers}
        samples = alternate(variants, self._options.repeats)
        return Comparison(title, unit, THEIRS, samples)


async def open_ours(
    client: httpx.AsyncClient, cartridge: str | None
) -> tuple[Server, dict[str, Any]]:
    """Our server and what there is to note about it.

    Args:
        client: Bound to its address.
        cartridge: The id of the only one to use; None takes all.
    """
    answer = await client.get("/v1/models")
    await check_status(answer)
    cards = answer.json()["data"]
    base = next(card["id"] for card in cards if card["parent"] is None)
    offered = {c["id"]: c["hash"] for card in cards for c in card["cartridges"]}
    if cartridge is not None and cartridge not in offered:
        raise SystemExit(f"{OURS} has no cartridge {cartridge!r}; it has {', '.join(offered)}")
    chosen = list(offered) if cartridge is None else [cartridge]
    facts = {"model": base}
    if chosen:
        facts["cartridges"] = ", ".join(f"{name} {offered[name][:12]}" for name in chosen)
    return Server(OURS, client, base, chosen), facts


async def open_theirs(client: httpx.AsyncClient) -> tuple[Server, dict[str, Any]]:
    """llama-server and what there is to note about it."""
    props, loras = await asyncio.gather(client.get("/props"), client.get("/lora-adapters"))
    await check_status(props)
    await check_status(loras)
    adapters = [lora["id"] for lora in loras.json()]
    return Server(THEIRS, client, "default", adapters), {THEIRS: props.json().get("build_info")}


async def open_both(
    options: argparse.Namespace, owned: AsyncExitStack
) -> tuple[list[Server], dict[str, Any]]:
    """Both servers, and facts about them."""
    limits = httpx.Limits(max_connections=None)
    clients = [
        await owned.enter_async_context(
            httpx.AsyncClient(base_url=url.rstrip("/"), timeout=None, limits=limits)  # noqa: S113
        )
        for url in (options.ours, options.llama_server)
    ]
    ours, about_ours = await open_ours(clients[0], options.cartridge)
    theirs, about_theirs = await open_theirs(clients[1])
    if options.adapters:
        if not ours.adapters:
            raise SystemExit(f"{OURS} serves no cartridge: start it with --cartridges")
        if not theirs.adapters:
            raise SystemExit(f"{THEIRS} has no LoRA: start it with --lora (see --help)")
        if len(theirs.adapters) > 1 and len(theirs.adapters) != len(ours.adapters):
            raise SystemExit(
                f"{THEIRS} has {len(theirs.adapters)} LoRAs and {OURS} {len(ours.adapters)} "
                "cartridges; give both the same, in the order of the cartridges' ids"
            )
    return [ours, theirs], about_ours | about_theirs


def tell_agreement(match: Match, report: Report, *, adapters: bool) -> None:
    """How many greedy texts are the same, without an adapter and with one."""
    count = max(match.n_adapters, 16)
    kinds: dict[str, Sequence[Adapter | None]] = {"unsteered": [None] * count}
    if adapters:
        kinds["an adapter each"] = own_adapters(count, match.n_adapters)
    for title, own in kinds.items():
        same = match.agreement(own)
        report.figure(f"equal texts, {title}", same, f"{title}: {same} of {count} texts are equal")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", required=True, metavar="URL")
    parser.add_argument("--llama-server", required=True, metavar="URL")
    add_run_options(parser)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, default=96, help="tokens a client")
    parser.add_argument("--stream", action="store_true", help="stream (default: answers whole)")
    parser.add_argument("--adapters", action="store_true", help="compare with adapters too")
    parser.add_argument("--agree", action="store_true", help="compare greedy texts too")
    parser.add_argument("--cartridge", metavar="ID", help="the only one of ours to use")
    parser.add_argument("--threads", type=int, help="of both servers, as started: only noted")
    options = parser.parse_args()
    with asyncio.Runner() as loop:
        owned = AsyncExitStack()
        try:
            servers, about = loop.run(open_both(options, owned))
            how = {"answers": "streamed" if options.stream else "whole", "tokens": options.tokens}
            report = Report(machine_facts(options.threads) | about | how, options.json)
            match = Match(servers, loop, options)
            if options.agree:
                tell_agreement(match, report, adapters=options.adapters)
            for count in options.clients:
                report.compare(match.throughput("unsteered", [None] * count))
            if options.adapters:
                for count in options.clients:
                    strength = 0.9 if match.n_adapters == 1 else 1.0
                    report.compare(match.throughput("one adapter", [(0, strength)] * count))
                    if count > 1:
                        own = own_adapters(count, match.n_adapters)
                        report.compare(match.throughput("an adapter each", own))
                report.compare(match.later_first_token())
            report.write()
        finally:
            loop.run(owned.aclose())


if __name__ == "__main__":
    main()
