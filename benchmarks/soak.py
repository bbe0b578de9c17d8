"""Mixed traffic for minutes or hours: does anything leak, wedge or change a text?

Starts a server (or takes the address of one that has just started), notes greedy texts, embeddings
and log-probabilities one by one, and then asks for them again amid everything else that clients do:
streams that are left, cartridges that come and go, embeddings, tools, schemas, echoes, long
prompts, bad requests. At the end the server's counters are compared with the clients' own, and its
memory and file descriptors with those of the beginning.

    python benchmarks/soak.py --cartridges demo --minutes 3
    python benchmarks/soak.py --url http://127.0.0.1:8080 --pid PID --admin-key KEY --minutes 120
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
from drain import SERVE, running
from harness import TEXT, Report, machine_facts, stream_events
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

HERE = frozenset({"127.0.0.1", "localhost", "::1"})
ADMIN_KEY = "soak-admin"
SAMPLE_SECONDS = 2.0
MOST_MINUTES, MOST_CLIENTS, MOST_REQUESTS = 24 * 60, 64, 10**7
GROWTH = 1.05
"""Resident memory of the last quarter over that of the second that passes as flat."""
PROMPTS = (
    "The committee published its report on Friday, and",
    "To mend a torn sleeve you need",
    "One, two, three, four,",
    "In the summer we like to",
)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["red", "green", "blue"]},
        "ok": {"type": "boolean"},
    },
    "required": ["name", "kind", "ok"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "paint", "parameters": SCHEMA}}


@dataclass(frozen=True)
class Question:
    """Something with one right answer."""

    path: str
    body: dict[str, Any]

    def answer_in(self, content: dict[str, Any]) -> Any:
        """What must be the same each time."""
        if self.path == "/v1/embeddings":
            return [item["embedding"] for item in content["data"]]
        return [(c["text"], c["finish_reason"], c["logprobs"]) for c in content["choices"]]


def questions(models: Sequence[str]) -> list[Question]:
    """The fixed set: texts, echoes with log-probabilities, and embeddings under each model."""
    out = []
    for model in models:
        for i, prompt in enumerate(PROMPTS):
            body = {"model": model, "prompt": prompt, "temperature": 0}
            out.append(Question("/v1/completions", {**body, "max_tokens": 12 + 4 * i}))
        echo = {"model": model, "prompt": PROMPTS[0], "echo": True, "logprobs": 2}
        out.append(Question("/v1/completions", {**echo, "max_tokens": 1, "temperature": 0}))
        inputs = [PROMPTS[1], TEXT]
        out.append(Question("/v1/embeddings", {"model": model, "input": inputs}))
    return out


def parse_metrics(text: str) -> dict[str, float]:
    """Name with labels → value, of Prometheus' text."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@dataclass(frozen=True)
class Sample:
    """What the server's process held at one moment: seconds since the start, bytes, descriptors."""

    seconds: float
    resident: int
    descriptors: int

    @classmethod
    def of(cls, pid: int, seconds: float, proc: Path = Path("/proc")) -> Sample:
        """Read it from the system."""
        lines = (proc / str(pid) / "status").read_text().splitlines()
        resident = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
        return cls(seconds, 1024 * resident, len(os.listdir(proc / str(pid) / "fd")))  # noqa: PTH208


def growth(samples: Sequence[Sample]) -> tuple[float, int]:
    """Median memory of the last quarter over that of the second, and more open descriptors.

    The first quarter is left out: caches fill up in it.
    """
    if len(samples) < 8:
        raise ValueError(f"{len(samples)} samples tell nothing; at least 8 are needed")
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    memory = [statistics.median(s.resident for s in part) for part in (early, late)]
    descriptors = [statistics.median(s.descriptors for s in part) for part in (early, late)]
    return memory[1] / memory[0], round(descriptors[1] - descriptors[0])


@dataclass
class Counts:
    """What the clients saw.

    Attributes:
        done: Things done, by kind.
        whole: Generations that came to their end.
        left: Generations that were left after their first event.
        failed: Generations that ended with an error of the server.
        refused: Requests that were refused, by status.
        wrong: What was not as it should be.
    """

    done: Counter[str] = field(default_factory=Counter)
    whole: int = 0
    left: int = 0
    failed: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def disagreements(counts: Counts, before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Where the server's counters do not fit what the clients saw."""

    def grown(name: str) -> int:
        return round(after.get(name, 0) - before.get(name, 0))

    ended = {
        kind: grown(f'llamacart_requests_total{{outcome="{kind}"}}')
        for kind in ("finished", "cancelled", "failed")
    }
    refused = {
        kind: grown(f'llamacart_requests_refused_total{{reason="{kind}"}}')
        for kind in ("invalid", "overloaded")
    }
    started = counts.whole + counts.left + counts.failed
    claims = {
        f"{ended} ended, the clients began {started}": sum(ended.values()) == started,
        f"{ended['finished']} finished, the clients saw {counts.whole} and left {counts.left}": (
            counts.whole <= ended["finished"] <= counts.whole + counts.left
        ),
        f"{ended['failed']} failed, the clients saw {counts.failed}": (
            ended["failed"] == counts.failed
        ),
        f"{refused['invalid']} invalid, the clients saw {counts.refused[400]}": (
            refused["invalid"] == counts.refused[400]
        ),
        f"{refused['overloaded']} overloaded, the clients saw {counts.refused[503]}": (
            refused["overloaded"] == counts.refused[503]
        ),
    }
    for gauge in ("running", "queued"):
        value = after.get(f"llamacart_requests_{gauge}")
        claims[f"{value} requests {gauge} at the end"] = value == 0
    return [claim for claim, holds in claims.items() if not holds]


class Soak:
    """The clients of one server.

    Args:
        client: Of the server, with the admin key.
        models: Ids of the models that stay.
        upload: Bytes of a cartridge that comes and goes; None for none.
        seed: Of what is done when.
    """

    def __init__(
        self, client: httpx.AsyncClient, models: Sequence[str], upload: bytes | None, seed: int
    ) -> None:
        self.client, self.models, self._upload = client, models, upload
        self.counts = Counts()
        self.random = random.Random(seed)
        self._order = random.Random(seed)  # its own, so that the n-th thing done is always the same
        self.questions = questions(models)
        self.answers: list[Any] = []
        self._n_uploads = 0
        self.ways: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "ask": (8, self.ask),
            "leave": (4, self.leave),
            "leave embedding": (2, self.leave_embedding),
            "structured": (2, self.structured),
            "long prompt": (2, self.long_prompt),
            "bad request": (1, self.bad_request),
        }
        if upload is not None:
            self.ways["cartridge"] = (1, self.cartridge)

    async def cold(self) -> None:
        """Note the right answers, one by one."""
        for question in self.questions:
            content = await self._post(question.path, question.body)
            if content is None:
                raise RuntimeError(f"a server without traffic refused {question.body}")
            self.answers.append(question.answer_in(content))

    async def again(self) -> None:
        """Compare all answers with those noted, one by one."""
        for number in range(len(self.questions)):
            await self._ask(number)

    async def traffic(self, n_clients: int, seconds: float, most: int) -> None:
        """Be some clients for some time, and do at most so many things."""
        deadline = time.monotonic() + seconds
        names = list(self.ways)
        weights = [self.ways[name][0] for name in names]

        async def be_client() -> None:
            while time.monotonic() < deadline and self.counts.done.total() < most:
                (name,) = self._order.choices(names, weights)
                self.counts.done[name] += 1
                try:
                    await self.ways[name][1]()
                except Exception as error:
                    self.counts.wrong.append(f"{name}: {type(error).__name__}: {error}")
                    await asyncio.sleep(0.2)

        await asyncio.gather(*(be_client() for _ in range(n_clients)))

    async def settle(self, seconds: float = 30) -> dict[str, float]:
        """The server's metrics once nothing runs or waits any more."""
        deadline = time.monotonic() + seconds
        while True:
            figures = parse_metrics((await self.client.get("/metrics")).text)
            busy = sum(figures[f"llamacart_requests_{gauge}"] for gauge in ("running", "queued"))
            if not busy or time.monotonic() > deadline:
                return figures
            await asyncio.sleep(0.1)

    # --- what clients do --------------------------------------------------------------------

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """A whole answer; None where the server has no room. A generation is counted."""
        response = await self.client.post(path, json=body)
        if response.status_code == 503:
            self.counts.refused[503] += 1
            await asyncio.sleep(0.1)
            return None
        if path != "/v1/embeddings":
            self.counts.whole += response.status_code == 200
            self.counts.failed += response.status_code == 500
        response.raise_for_status()
        content: dict[str, Any] = response.json()
        return content

    async def ask(self) -> None:
        """Ask for something with one right answer."""
        await self._ask(self.random.randrange(len(self.questions)))

    async def _ask(self, number: int) -> None:
        question = self.questions[number]
        content = await self._post(question.path, question.body)
        if content is not None and question.answer_in(content) != self.answers[number]:
            self.counts.wrong.append(f"another answer to {question.body}")

    async def leave(self) -> None:
        """Leave a stream in the middle."""
        body = {
            "model": self.random.choice(self.models),
            "prompt": self.random.choice(PROMPTS),
            "max_tokens": 200,
            "ignore_eos": True,
            "stream": True,
        }
        n_left = self.random.randrange(1, 20)
        async with self.client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code == 503:
                self.counts.refused[503] += 1
                return
            response.raise_for_status()
            n = 0
            async for _ in stream_events(response):
                n += 1
                if n == 1:
                    self.counts.left += 1
                if n == n_left:
                    return

    async def leave_embedding(self) -> None:
        """Ask for embeddings, and leave at some moment."""
        body = {"model": self.random.choice(self.models), "input": [TEXT * 3] * 2}
        request = asyncio.ensure_future(self.client.post("/v1/embeddings", json=body))
        await asyncio.sleep(self.random.random() / 5)
        request.cancel()
        (outcome,) = await asyncio.gather(request, return_exceptions=True)
        if isinstance(outcome, httpx.Response) and outcome.status_code == 503:
            self.counts.refused[503] += 1

    async def structured(self) -> None:
        """Ask for a JSON object or a call of a tool."""
        message = {"role": "user", "content": self.random.choice(PROMPTS)}
        body: dict[str, Any] = {"model": self.models[0], "messages": [message], "max_tokens": 60}
        if self.random.random() < 0.5:
            body |= {"tools": [TOOL], "tool_choice": "required"}
        else:
            schema = {"name": "thing", "schema": SCHEMA, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        content = await self._post("/v1/chat/completions", body)
        if content is None:
            return
        (choice,) = content["choices"]
        if choice["finish_reason"] != "length":
            calls = choice["message"].get("tool_calls")
            text = calls[0]["function"]["arguments"] if calls else choice["message"]["content"]
            if set(json.loads(text)) != set(SCHEMA["required"]):
                self.counts.wrong.append(f"{text!r} does not fit the schema")

    async def long_prompt(self) -> None:
        """Crowd the KV cache."""
        start = self.random.randrange(len(TEXT))
        prompt = f"{start}. {TEXT[start:]}" + TEXT * self.random.randrange(1, 8)
        body = {"model": self.random.choice(self.models), "prompt": prompt, "max_tokens": 4}
        await self._post("/v1/completions", body)

    async def bad_request(self) -> None:
        """Be refused."""
        body = {"model": self.models[0], "prompt": "x", "temperature": -1}
        response = await self.client.post("/v1/completions", json=body)
        self.counts.refused[response.status_code] += 1
        if response.status_code != 400:
            self.counts.wrong.append(f"a bad request was answered {response.status_code}")

    async def cartridge(self) -> None:
        """Upload a cartridge, use it and delete it."""
        self._n_uploads += 1
        name = f"soak-{self._n_uploads}"
        response = await self.client.post(
            "/v1/cartridges",
            params={"id": name},
            content=self._upload,
            headers={"Content-Type": "application/octet-stream"},
        )
        response.raise_for_status()
        try:
            body = {"model": f"{self.models[0]}:{name}", "prompt": PROMPTS[1], "max_tokens": 8}
            await self._post("/v1/completions", body)
        finally:
            path = f"/v1/cartridges/{name}"
            gone = await self.client.delete(path, params={"delete_file": True})
            gone.raise_for_status()


async def watch(pid: int, samples: list[Sample]) -> None:
    """Take samples until cancelled."""
    begun = time.monotonic()
    while True:
        samples.append(Sample.of(pid, time.monotonic() - begun))
        await asyncio.sleep(SAMPLE_SECONDS)


async def run(given: argparse.Namespace, report: Report) -> bool:
    """Soak one server; whether all is as it should be."""
    async with AsyncExitStack() as owned:
        url, pid = given.url, given.pid
        folder = given.cartridges
        if url is None:
            command = [*shlex.split(given.command)] if given.command else [*SERVE]
            command += ["--model", given.model, "--port", "0", "--admin-key", given.admin_key]
            command += ["--no-log-requests", "--ctx", str(given.ctx)]
            if folder is not None:  # a copy, for uploads go there
                place = owned.enter_context(tempfile.TemporaryDirectory())
                command += ["--cartridges", shutil.copytree(folder, Path(place) / "cartridges")]
            server = await owned.enter_async_context(running([str(part) for part in command]))
            url, pid = str(server.client.base_url), server.process.pid
        client = await owned.enter_async_context(
            httpx.AsyncClient(
                base_url=url,
                timeout=600,
                limits=httpx.Limits(max_connections=None),
                headers={"Authorization": f"Bearer {given.admin_key}"},
            )
        )
        cards = (await client.get("/v1/models")).json()["data"]
        files = sorted(folder.glob("*.gguf")) if folder is not None else []
        upload = files[0].read_bytes() if files else None
        soak = Soak(client, [card["id"] for card in cards[:3]], upload, given.seed)
        before = await soak.settle()
        await soak.cold()
        samples: list[Sample] = []
        watcher = asyncio.ensure_future(watch(pid, samples)) if pid else None
        await soak.traffic(given.clients, 60 * given.minutes, given.requests)
        await soak.settle()
        await soak.again()
        after = await soak.settle()
        if watcher is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
    return conclude(soak.counts, disagreements(soak.counts, before, after), samples, report)


def conclude(counts: Counts, books: list[str], samples: Sequence[Sample], report: Report) -> bool:
    """Print what came of it; whether all is as it should be."""
    table = Table("done", *counts.done)
    table.add_row(str(counts.done.total()), *map(str, counts.done.values()))
    report.console.print(table)
    report.figures |= {
        "done": dict(counts.done),
        "whole": counts.whole,
        "left": counts.left,
        "failed": counts.failed,
        "refused": {str(status): n for status, n in counts.refused.items()},
        "wrong": counts.wrong[:100],
        "books": books,
        "samples": [vars(sample) for sample in samples],
    }
    for line in (*counts.wrong[:10], *books):
        report.console.print(f"NOT as it should be: {line}", markup=False, highlight=False)
    good = not counts.wrong and not books
    if len(samples) >= 8:
        memory, descriptors = growth(samples)
        flat = memory <= GROWTH and descriptors <= 8
        good = good and flat
        report.figure(
            "growth",
            {"memory": memory, "descriptors": descriptors},
            f"memory {samples[0].resident / 2**20:.0f} MiB at first, "
            f"{samples[-1].resident / 2**20:.0f} at last, last quarter over second {memory:.3f}; "
            f"{descriptors:+d} file descriptors: {'flat' if flat else 'NOT flat'}",
        )
    report.figure(
        "good",
        good,
        f"{counts.whole} whole, {counts.left} left, {counts.failed} failed, "
        f"{counts.refused.total()} refused; {'as it should be' if good else 'NOT as it should be'}",
    )
    report.write()
    return good


def read_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", help="a server of this machine; default: one is started")
    parser.add_argument("--pid", type=int, help="its process, to look at its memory")
    parser.add_argument("--admin-key", default=ADMIN_KEY, help="for uploads")
    parser.add_argument("--command", help="what starts the server, e.g. 'llamacart serve'")
    parser.add_argument("--model", default="demo", help="GGUF path, 'demo' or hf:…")
    parser.add_argument("--cartridges", type=Path, help="folder; its first file is also uploaded")
    parser.add_argument("--ctx", type=int, default=4096, help="KV cells; fewer mean more pressure")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--requests", type=int, default=MOST_REQUESTS, help="most things to do")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    given = parser.parse_args(words)
    if given.url is not None and urlsplit(given.url).hostname not in HERE:
        parser.error(f"--url {given.url}: only a server of this machine is soaked")
    for name, most in (
        ("minutes", MOST_MINUTES),
        ("clients", MOST_CLIENTS),
        ("requests", MOST_REQUESTS),
    ):
        if not 0 < getattr(given, name) <= most:
            parser.error(f"--{name} has value {getattr(given, name)}; more than 0, up to {most}")
    return given


def main() -> None:
    given = read_arguments()
    report = Report(machine_facts(None) | {"model": given.model}, given.json)
    sys.exit(0 if asyncio.run(run(given, report)) else 1)


if __name__ == "__main__":
    main()
