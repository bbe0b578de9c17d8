"""SIGTERM under load: is every open stream ended whole or with an error event, and none cut?

Starts a server, opens streams of which some have to queue, sends SIGTERM in the middle and looks:
does `/ready` turn 503, are new requests refused with 503, how does each stream end, and when is the
process gone? Three times: with time for all to end, with time for some, and with a second SIGTERM.

    python benchmarks/drain.py
    python benchmarks/drain.py --cartridges demo --streams 16 --queued 8
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import signal
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx
from harness import Report, machine_facts
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

SERVE = [sys.executable, "-c", "from llamacart.cli import main; main()", "serve"]
UNDER_WAY = 4
"""Tokens that each running stream has sent before the signal."""

Ending = Literal["whole", "error event", "cut"]


@dataclass(frozen=True)
class Variant:
    """One way to be stopped.

    Attributes:
        name: In the table.
        grace: `--shutdown-seconds`.
        lengths: Fewest and most tokens of the streams.
        expected: Endings that streams may have.
        needed: Endings that at least one stream must have.
        second: Seconds after which a second SIGTERM follows.
    """

    name: str
    grace: int
    lengths: tuple[int, int]
    expected: frozenset[Ending]
    needed: frozenset[Ending]
    second: float | None = None


def variants(grace: int, length: int) -> list[Variant]:
    """The three ways, for a grace period of some seconds and answers of some tokens."""
    whole: frozenset[Ending] = frozenset({"whole"})
    both: frozenset[Ending] = frozenset({"whole", "error event"})
    any_end: frozenset[Ending] = both | {"cut"}
    return [
        Variant("time for all", 40 * grace, (length // 2, length), whole, whole),
        Variant("time for some", grace, (length // 4, 40 * length), both, both),
        Variant("second SIGTERM", 600, (20 * length, 40 * length), any_end, frozenset(), 0.5),
    ]


@dataclass
class Stream:
    """What came of one streamed request.

    Attributes:
        status: HTTP status; 0 before there is one.
        events: Data of the events, `[DONE]` included.
        closed: Whether HTTP's own end of the body came.
    """

    status: int = 0
    events: list[str] = field(default_factory=list)
    closed: bool = False

    async def read(self, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        """Send the request and read the answer to its end."""
        try:
            async with client.stream("POST", "/v1/completions", json=body) as response:
                self.status = response.status_code
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        self.events.append(line.removeprefix("data: "))
                self.closed = True
        except httpx.HTTPError:
            pass

    @property
    def ending(self) -> Ending:
        """How it ended."""
        return ending_of(self.events) if self.closed and self.status == 200 else "cut"


def ending_of(events: Sequence[str]) -> Ending:
    """How a stream of these events ended: `whole` has one finish reason, and its last is [DONE]."""
    if not events or events[-1] != "[DONE]" or "[DONE]" in events[:-1]:
        return "cut"
    parsed = [json.loads(event) for event in events[:-1]]
    if parsed and "error" in parsed[-1]:
        return "error event"
    reasons = [choice["finish_reason"] for event in parsed for choice in event["choices"]]
    n_reasons = sum(reason is not None for reason in reasons)
    return "whole" if n_reasons == 1 and reasons[-1] is not None else "cut"


@dataclass
class Outcome:
    """What was seen of one variant.

    Attributes:
        variant: Which one.
        endings: How many streams ended how.
        n_queued: Requests that waited for a slot when the signal came.
        ready_seconds: From the signal to the first 503 of `/ready`.
        refused: Status and Retry-After of a request that came after that.
        exit_seconds: From the last signal to the end of the process.
        exit_status: Of the process.
    """

    variant: Variant
    endings: Counter[Ending]
    n_queued: int
    ready_seconds: float
    refused: tuple[int, str | None]
    exit_seconds: float
    exit_status: int

    @property
    def as_it_should_be(self) -> bool:
        """Whether a client could see nothing wrong."""
        there = set(self.endings)
        return (
            there <= self.variant.expected
            and there >= self.variant.needed
            and self.refused == (503, "1")
            and self.exit_status == (0 if self.variant.second is None else 1)
        )


@dataclass
class Server:
    """A running server."""

    process: asyncio.subprocess.Process
    client: httpx.AsyncClient

    def signal(self) -> float:
        """Send SIGTERM; returns the time."""
        self.process.send_signal(signal.SIGTERM)
        return time.monotonic()

    async def queued(self) -> int:
        """Requests that wait for a slot."""
        for line in (await self.client.get("/metrics")).text.splitlines():
            if line.startswith("llamacart_requests_queued "):
                return int(float(line.split()[1]))
        raise RuntimeError("/metrics does not tell how many requests wait")

    async def turned_unready(self) -> float:
        """Wait until `/ready` says 503; returns the time."""
        while (await self.client.get("/ready")).status_code == 200:
            await asyncio.sleep(0.002)
        return time.monotonic()


@asynccontextmanager
async def running(command: list[str]) -> AsyncIterator[Server]:
    """A server on a free port, killed at the end if it is still there."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        greeting = (await process.stdout.readline()).decode()
        if "listening on " not in greeting:
            raise RuntimeError(f"no 'listening on <url>' but {greeting!r} from {command}")
        url = greeting.split("listening on ")[1].partition("/v1")[0]
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
            yield Server(process, client)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def stop_under_load(variant: Variant, given: argparse.Namespace) -> Outcome:
    """Carry out one variant."""
    n_streams, n_all = given.streams, given.streams + given.queued
    low, high = variant.lengths
    command = [*shlex.split(given.command)] if given.command else SERVE
    command += ["--model", given.model, "--port", "0", "--shutdown-seconds", str(variant.grace)]
    command += ["--parallel", str(n_streams), "--max-tokens", str(high), "--ctx", "65536"]
    command += ["--no-log-requests"]
    if given.cartridges is not None:
        command += ["--cartridges", str(given.cartridges)]
    async with running(command) as server:
        models = [card["id"] for card in (await server.client.get("/v1/models")).json()["data"]]
        streams = [Stream() for _ in range(n_all)]
        readers = []
        for number, stream in enumerate(streams):
            body = {
                "model": models[number % len(models)],
                "prompt": f"{number} is a number that",
                "max_tokens": low + (high - low) * (number % n_streams) // max(1, n_streams - 1),
                "ignore_eos": True,
                "stream": True,
            }
            readers.append(asyncio.ensure_future(stream.read(server.client, body)))
        while sum(len(stream.events) >= UNDER_WAY for stream in streams) < n_streams:
            await asyncio.sleep(0.01)
        n_queued = await server.queued()
        sent = server.signal()
        ready_seconds = await server.turned_unready() - sent
        late = await server.client.post("/v1/completions", json={"model": "x", "prompt": "y"})
        if variant.second is not None:
            await asyncio.sleep(variant.second)
            sent = server.signal()
        exit_status = await server.process.wait()
        exit_seconds = time.monotonic() - sent
        await asyncio.gather(*readers)
    return Outcome(
        variant,
        Counter(stream.ending for stream in streams),
        n_queued,
        ready_seconds,
        (late.status_code, late.headers.get("Retry-After")),
        exit_seconds,
        exit_status,
    )


def table_of(outcomes: Sequence[Outcome]) -> Table:
    """One row a variant."""
    table = Table(
        "", "grace", "streams", "queued", "whole", "error event", "cut", "/ready 503 after",
        "new request", "exit after", "status", "as it should be",
    )  # fmt: skip
    for outcome in outcomes:
        endings = outcome.endings
        table.add_row(
            outcome.variant.name,
            f"{outcome.variant.grace} s",
            str(endings.total()),
            str(outcome.n_queued),
            *(str(endings[kind]) for kind in ("whole", "error event", "cut")),
            f"{1000 * outcome.ready_seconds:.0f} ms",
            f"{outcome.refused[0]}, Retry-After {outcome.refused[1]}",
            f"{outcome.exit_seconds:.2f} s",
            str(outcome.exit_status),
            "yes" if outcome.as_it_should_be else "NO",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="demo", help="GGUF path, 'demo' or hf:…")
    parser.add_argument("--cartridges", type=Path, help="folder; streams take turns among models")
    parser.add_argument("--command", help="what starts the server, e.g. 'llamacart serve'")
    parser.add_argument("--streams", type=int, default=16, help="that decode together")
    parser.add_argument("--queued", type=int, default=8, help="that wait for a slot")
    parser.add_argument("--length", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--grace", type=int, default=3, help="seconds that suffice for some")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    given = parser.parse_args()
    report = Report(machine_facts(None) | {"model": given.model}, given.json)
    outcomes = []
    for variant in variants(given.grace, given.length):
        outcome = asyncio.run(stop_under_load(variant, given))
        outcomes.append(outcome)
        report.figures[variant.name] = {
            "endings": dict(outcome.endings),
            "queued": outcome.n_queued,
            "ready_seconds": outcome.ready_seconds,
            "exit_seconds": outcome.exit_seconds,
            "exit_status": outcome.exit_status,
        }
    report.console.width = max(report.console.width, 130)
    report.console.print(table_of(outcomes))
    report.write()
    sys.exit(0 if all(outcome.as_it_should_be for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
