"""Ray Serve on this machine: many cartridges, few replicas, and one replica killed in the middle.

Clients send completions, every other one as a stream, each with a cartridge drawn at random. After
a part of them one replica gets SIGKILL. Printed are the requests that were answered and that
failed, the seconds until as many replicas run as before, and the share of requests that met their
cartridge already loaded.

Usage: ray_serve.py CARTRIDGES [--model demo] [--affinity cartridge|none|session] [--replicas 3]
    [--requests 200] [--clients 6] [--held 6] [--no-kill]

CARTRIDGES is a folder of files named like the cartridges in them. Needs the extra `[ray]`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import socket
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import openai
import ray
from ray import serve

from llamacart_server.ray_app.app import build

APP = "llamacart"
DEPLOYMENT = "LlamacartReplica"


@dataclass
class Result:
    """What became of a request."""

    start: float
    seconds: float = 0.0
    met: str | None = None
    replica: str | None = None
    error: str | None = None


class Watch(threading.Thread):
    """Looks how many replicas run, again and again."""

    def __init__(self, wanted: int) -> None:
        super().__init__(daemon=True)
        self._wanted = wanted
        self.killed: float | None = None
        self.fewer: float | None = None
        self.whole: float | None = None

    def run(self) -> None:
        """Look until there are as many as before."""
        while self.whole is None:
            states = serve.status().applications[APP].deployments[DEPLOYMENT].replica_states
            n = states.get("RUNNING", 0)
            now = time.monotonic()
            if self.killed is not None and self.fewer is None and n < self._wanted:
                self.fewer = now - self.killed
            if self.killed is not None and self.fewer is not None and n >= self._wanted:
                self.whole = now - self.killed
            time.sleep(0.1)


def replica_processes() -> list[int]:
    """Process ids of the replicas that this process's Ray has started."""
    parents, replicas = {}, []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes()
                after_name = (process / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(process.name)] = int(after_name[1])
            if DEPLOYMENT.encode() in command:
                replicas.append(int(process.name))
    return [pid for pid in replicas if os.getpid() in _ancestors(pid, parents)]


def _ancestors(pid: int, parents: dict[int, int]) -> set[int]:
    found = set()
    while pid in parents:
        pid = parents[pid]
        found.add(pid)
    return found


async def ask(client: openai.AsyncOpenAI, model: str, *, stream: bool) -> Result:
    """Send one request and read all of its answer."""
    result = Result(time.monotonic())
    asked = {"model": model, "prompt": f"{model} says that", "max_tokens": 8}
    asked["extra_body"] = {"ignore_eos": True}
    try:
        raw = await client.completions.with_raw_response.create(stream=stream, **asked)
        result.met = raw.headers.get("x-llamacart-cartridges")
        result.replica = raw.headers.get("x-llamacart-replica")
        answer = raw.parse()
        if stream:
            async for _ in answer:
                pass
    except openai.APIError as error:
        result.error = f"{type(error).__name__}: {error}"
    result.seconds = time.monotonic() - result.start
    return result


async def load(
    base_url: str, models: list[str], given: argparse.Namespace, watch: Watch
) -> list[Result]:
    """Send all requests, and kill a replica after two fifths of them."""
    client = openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=120)
    rng = random.Random(0)
    waiting = [(rng.choice(models), i % 2 == 1) for i in range(given.requests)]
    results: list[Result] = []

    async def one_client() -> None:
        while waiting:
            if given.kill and watch.killed is None and len(results) >= given.requests * 2 // 5:
                watch.killed = time.monotonic()
                os.kill(replica_processes()[0], signal.SIGKILL)
            model, stream = waiting.pop()
            results.append(await ask(client, model, stream=stream))

    await asyncio.gather(*(one_client() for _ in range(given.clients)))
    return results


def show(results: list[Result], watch: Watch, given: argparse.Namespace, seconds: float) -> None:
    answered = [result for result in results if result.error is None]
    met = Counter(result.met for result in answered)
    print(
        f"affinity {given.affinity}, {given.replicas} replicas with up to {given.held} cartridges"
    )
    print(
        f"requests {len(results)}, answered {len(answered)}, {len(results) / seconds:.1f} a second"
    )
    for result in results:
        if result.error is not None:
            after = "" if watch.killed is None else f" {result.start - watch.killed:+.1f} s"
            print(
                f"  failed: begun{after} from the kill, ended {result.seconds:.1f} s later, "
                f"replica {result.replica}: {result.error}"
            )
    share = met["resident"] / max(1, met["resident"] + met["loaded"])
    print(
        f"met their cartridge loaded: {share:.0%} ({met['resident']} of "
        f"{met['resident'] + met['loaded']})"
    )
    times = sorted(result.seconds for result in answered)
    print(
        f"seconds of an answer: median {statistics.median(times):.2f}, "
        f"95 in 100 within {times[len(times) * 95 // 100]:.2f}"
    )
    print(f"answers by replica: {dict(Counter(result.replica for result in answered))}")
    if watch.killed is not None:
        print(f"replica missed after {watch.fewer} s, full strength after {watch.whole} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cartridges", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--affinity", default="cartridge")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--held", type=int, default=6)
    parser.add_argument("--kill", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray.init(num_cpus=given.replicas + 1, include_dashboard=False, log_to_driver=False)
    try:
        start = time.monotonic()
        serve.start(http_options={"port": port})
        settings = {
            "model": given.model,
            "cartridges": str(given.cartridges),
            "ctx": 1024,
            "embedding_ctx": 64,
            "parallel": 4,
            "min_replicas": given.replicas,
            "max_cartridges": given.held,
            "affinity": given.affinity,
        }
        serve.run(build(settings), name=APP)
        print(f"{given.replicas} replicas after {time.monotonic() - start:.1f} s", flush=True)
        watch = Watch(given.replicas)
        watch.start()
        base_url = f"http://127.0.0.1:{port}/v1"
        ids = openai.OpenAI(base_url=base_url, api_key="none").models.list()
        models = [model.id for model in ids if ":" in model.id]
        start = time.monotonic()
        results = asyncio.run(load(base_url, models, given, watch))
        seconds = time.monotonic() - start
        if watch.killed is not None:
            watch.join(90)
        show(results, watch, given, seconds)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
