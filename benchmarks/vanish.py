"""What is left of clients that vanish: nothing should be.

200 clients leave at random (seeded) moments while 8 others stream: with half of a request sent,
before the answer's headers, before the first piece of a stream (which is where a queued request
is), and in mid-stream. After a warm-up round like it, it is checked that

- the 8 texts are what they are when each client is alone;
- the server says that nothing is running and nothing is queued, shortly after;
- the server's resident set is within 5 % of what it was after the warm-up.

The exit status is 1 where one of them fails. Usage: vanish.py URL --pid PID [--clients 200]

Running and queued are read from `/metrics` (`llamacart_requests_running` and `_queued`), or from
`--stats URL`: metrics likewise, or JSON with the keys `running` and `queued`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit

import httpx
from harness import TEXT, Report, ServerError, check_status, machine_facts, stream_events

if TYPE_CHECKING:
    from collections.abc import Sequence

Way = Literal["half a request", "before headers", "before the first piece", "mid-stream"]
WAYS: tuple[Way, ...] = get_args(Way)
STEADY_PROMPT = "When the train finally arrived at the station,"
MEMORY_LIMIT = 0.05
SETTLE_SECONDS = 30.0
RUNNING, QUEUED = "llamacart_requests_running", "llamacart_requests_queued"
SAMPLE = re.compile(rf"^({RUNNING}|{QUEUED})(?:\{{.*\}})? +(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Visit:
    """What one client does.

    Attributes:
        start: Seconds after the round's start.
        way: Where it leaves.
        patience: Seconds it waits there, or in mid-stream the pieces it reads.
        model: The model id it asks for.
        prompt: Its prompt.
    """

    start: float
    way: Way
    patience: float
    model: str
    prompt: str


def plan_visits(seed: int, count: int, seconds: float, models: Sequence[str]) -> tuple[Visit, ...]:
    """Visits spread over `seconds`, the same for the same seed."""
    rng = random.Random(seed)
    words = TEXT.split()
    visits = []
    for _ in range(count):
        way = rng.choice(WAYS)
        longest = 0.2 if way == "half a request" else 1.5
        patience = rng.randint(1, 12) if way == "mid-stream" else rng.uniform(0, longest)
        prompt = " ".join(rng.sample(words, rng.randint(4, 40)))
        visits.append(Visit(rng.uniform(0, seconds), way, patience, rng.choice(models), prompt))
    return tuple(visits)


def parse_stats(text: str) -> tuple[int, int]:
    """(running, queued) from Prometheus text or from JSON with those keys.

    Raises:
        ValueError: One of them is not there.
    """
    values: dict[str, float] = {}
    if text.lstrip().startswith("{"):
        content = json.loads(text)
        values = {RUNNING: content.get("running"), QUEUED: content.get("queued")}
    else:
        for name, value in SAMPLE.findall(text):
            values[name] = values.get(name, 0.0) + float(value)
    missing = [name for name in (RUNNING, QUEUED) if values.get(name) is None]
    if missing:
        raise ValueError(f"the server does not tell {' and '.join(missing)}")
    return int(values[RUNNING]), int(values[QUEUED])


def common_length(a: str, b: str) -> int:
    """Characters that both begin with."""
    differ = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differ, min(len(a), len(b)))


def resident_bytes(pid: int) -> int:
    """Resident set of a process (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Crowd:
    """All clients of one server.

    Args:
        client: Bound to the server's address.
        stats_url: Where it says what is running and queued.
        tokens: Tokens of each steady stream.
    """

    def __init__(self, client: httpx.AsyncClient, stats_url: str, tokens: int) -> None:
        self._client, self._stats_url, self._tokens = client, stats_url, tokens
        self.outcomes: Counter[str] = Counter()
        self.most_queued = 0

    # --- the ones that stay -----------------------------------------------------------------

    async def stay(self, model: str) -> str:
        """Read a whole stream and return its text."""
        body = self._body(model, STEADY_PROMPT, self._tokens)
        text = ""
        async with self._client.stream("POST", "/v1/completions", json=body) as answer:
            await check_status(answer)
            async for event in stream_events(answer):
                text += "".join(choice["text"] for choice in event["choices"])
        return text

    async def stay_during(self, model: str, others: asyncio.Future[Any]) -> list[str]:
        """Read the stream again and again until the others are gone."""
        texts = [await self.stay(model)]
        while not others.done():
            texts.append(await self.stay(model))
        return texts

    # --- the ones that go -------------------------------------------------------------------

    async def visit(self, visit: Visit) -> None:
        """Come, and vanish as planned."""
        await asyncio.sleep(visit.start)
        leave = {
            "half a request": self._leave_half_request,
            "before headers": self._leave_before_headers,
            "before the first piece": self._leave_before_first_piece,
            "mid-stream": self._leave_mid_stream,
        }[visit.way]
        try:
            outcome = await leave(visit)
        except (httpx.TransportError, ServerError) as error:
            outcome = f"failed: {type(error).__name__}"
        self.outcomes[f"{visit.way}: {outcome}"] += 1

    async def _leave_half_request(self, visit: Visit) -> str:
        address = urlsplit(str(self._client.base_url))
        default_port = 443 if address.scheme == "https" else 80
        body = json.dumps(self._body(visit.model, visit.prompt, 256)).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        _, writer = await asyncio.open_connection(
            address.hostname, address.port or default_port, ssl=address.scheme == "https" or None
        )
        try:
            # Some leave in the headers, some in the body.
            whole = head + body
            writer.write(whole[: int(len(whole) * min(0.95, visit.patience / 0.2))])
            await writer.drain()
            await asyncio.sleep(visit.patience)
        finally:
            writer.transport.abort()
        return "vanished"

    async def _leave_before_headers(self, visit: Visit) -> str:
        # Not a stream: the headers come when all of the text is there.
        body = self._body(visit.model, visit.prompt, 256) | {"stream": False}
        try:
            async with asyncio.timeout(visit.patience):
                answer = await self._client.post("/v1/completions", json=body)
        except TimeoutError:
            return "vanished"
        return f"answered {answer.status_code} before"

    async def _leave_before_first_piece(self, visit: Visit) -> str:
        body = self._body(visit.model, visit.prompt, 256)
        try:
            async with (
                asyncio.timeout(visit.patience),
                self._client.stream("POST", "/v1/completions", json=body) as answer,
            ):
                if answer.status_code != 200:
                    return f"answered {answer.status_code}"
                async for _ in stream_events(answer):
                    return "vanished at the first piece"
        except TimeoutError:
            return "vanished"
        return "answered before"

    async def _leave_mid_stream(self, visit: Visit) -> str:
        body = self._body(visit.model, visit.prompt, 256)
        async with self._client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                return f"answered {answer.status_code}"
            pieces = 0
            async for _ in stream_events(answer):
                pieces += 1
                if pieces >= visit.patience:
                    return "vanished"
        return "answered before"

    @staticmethod
    def _body(model: str, prompt: str, tokens: int) -> dict[str, Any]:
        return {
            "model": model,
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }

    # --- the server -------------------------------------------------------------------------

    async def stats(self) -> tuple[int, int]:
        """(running, queued)."""
        answer = await self._client.get(self._stats_url)
        await check_status(answer)
        return parse_stats(answer.text)

    async def watch(self) -> None:
        """Note the longest queue, until cancelled."""
        while True:
            self.most_queued = max(self.most_queued, (await self.stats())[1])
            await asyncio.sleep(0.2)

    async def settle(self) -> tuple[int, int, float]:
        """Wait until nothing is running or queued: (running, queued, seconds waited)."""
        start = time.perf_counter()
        while True:
            running, queued = await self.stats()
            waited = time.perf_counter() - start
            if not (running or queued) or waited > SETTLE_SECONDS:
                return running, queued, waited
            await asyncio.sleep(0.05)

    async def round(self, visits: Sequence[Visit], steady: Sequence[str]) -> list[list[str]]:
        """All visits while the steady ones stream; the texts that each of those got."""
        watcher = asyncio.create_task(self.watch())
        await asyncio.sleep(0)
        others = asyncio.ensure_future(asyncio.gather(*(self.visit(v) for v in visits)))
        try:
            return await asyncio.gather(*(self.stay_during(model, others) for model in steady))
        finally:
            await others
            watcher.cancel()


async def choose_models(client: httpx.AsyncClient, count: int) -> list[str]:
    """The base model and, as far as there are cartridges, different strengths of them."""
    answer = await client.get("/v1/models")
    await check_status(answer)
    cards = answer.json()["data"]
    base = next(card["id"] for card in cards if card["parent"] is None)
    steered = [card["id"] for card in cards if card["parent"] is not None]
    choices = [f"{model}@{0.4 + 0.1 * i:.1f}" for i in range(count) for model in steered]
    return ([base, *choices] if choices else [base] * count)[:count]


async def run(options: argparse.Namespace, report: Report) -> bool:
    """The whole of it; whether all checks hold."""
    limits = httpx.Limits(max_connections=None)
    url = options.url.rstrip("/")
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as client:  # noqa: S113
        crowd = Crowd(client, options.stats or f"{url}/metrics", options.tokens)
        await crowd.stats()  # a server that does not tell shows now, not at the end
        steady = await choose_models(client, options.steady)
        alone = [await crowd.stay(model) for model in steady]
        visits = plan_visits(options.seed, options.clients, options.seconds, steady)
        await crowd.round(visits, steady)
        await crowd.settle()
        start_bytes = resident_bytes(options.pid) if options.pid else None
        crowd.outcomes.clear()
        crowd.most_queued = 0
        start = time.perf_counter()
        together = await crowd.round(visits, steady)
        seconds = time.perf_counter() - start
        running, queued, waited = await crowd.settle()
        end_bytes = resident_bytes(options.pid) if options.pid else None
    for name, count in sorted(crowd.outcomes.items()):
        report.figure(name, count, f"  {count:4d} {name}")
    report.figure("seconds", seconds, f"the round took {seconds:.1f} s")
    most = crowd.most_queued
    report.figure("most_queued", most, f"at most {most} requests were queued")
    texts = []
    for model, own, many in zip(steady, alone, together, strict=True):
        texts += [text == own for text in many]
        for text in set(many) - {own}:
            at = common_length(own, text)
            report.console.print(
                f"     {model} parts after {at} characters: alone {own[at:][:40]!r}, "
                f"in the crowd {text[at:][:40]!r}",
                highlight=False,
                markup=False,
            )
    report.figure("texts", len(texts), f"{len(set(alone))} of {len(alone)} texts differ")
    checks = [
        _check(
            report,
            "texts_equal",
            sum(texts),
            f"{sum(texts)} of {len(texts)} streams equal to what they are alone",
            holds=all(texts),
        ),
        _check(
            report,
            "left",
            [running, queued],
            f"{running} running and {queued} queued {waited:.2f} s after the last client",
            holds=not (running or queued),
        ),
    ]
    if start_bytes is not None and end_bytes is not None:
        change = end_bytes / start_bytes - 1
        checks.append(
            _check(
                report,
                "memory_change",
                change,
                f"resident set {start_bytes / 2**20:.1f} MiB after the warm-up, "
                f"{end_bytes / 2**20:.1f} MiB at the end ({change:+.2%})",
                holds=abs(change) <= MEMORY_LIMIT,
            )
        )
    else:
        report.figure("memory_change", None, "     memory not measured: no --pid")
    return all(checks)


def _check(report: Report, name: str, value: Any, text: str, *, holds: bool) -> bool:
    report.figure(name, value, f"{'ok  ' if holds else 'FAIL'} {text}")
    return holds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--pid", type=int, help="the server's process, for its memory (Linux)")
    parser.add_argument("--stats", metavar="URL", help="default: URL/metrics")
    parser.add_argument("--clients", type=int, default=200, help="that vanish in a round")
    parser.add_argument("--steady", type=int, default=8, help="that stream meanwhile")
    parser.add_argument("--seconds", type=float, default=8.0, help="over which they come")
    parser.add_argument("--tokens", type=int, default=96, help="of each steady stream")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    options = parser.parse_args()
    report = Report(machine_facts(None) | {"seed": options.seed}, options.json)
    holds = asyncio.run(run(options, report))
    report.write()
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
