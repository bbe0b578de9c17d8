"""How long an answer takes while the machine computes something else too.

Takes the addresses of one or more running servers, ours and llama-server's (how to start them:
`versus_llama_server.py --help`). Each gets a short greedy request, in turn with the others, first
with nothing beside it, then beside busy loops, then beside a command of yours. The busy loops are
processes that end by themselves. Ours is asked with a cartridge where it serves one, llama-server
with its LoRA.

    shared_machine.py --server ours=http://127.0.0.1:8080 --server theirs=http://127.0.0.1:8090 \
        --loads 0 2 4 --beside "llamacart train cartridges/library/french -o scratch.gguf"

`--together` asks all servers at the same moment instead of in turn, which shows how two of them
share the machine. A quota or fewer processors are for whoever starts the servers (`taskset`,
`docker run --cpus 1`).
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
from harness import Report, Spread, add_run_options, machine_facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PROMPT = "The weather in the mountains was"
ALONE = "nothing"
LONGEST_SECONDS = 600
_LOOP = """
import sys, time
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    pass
"""
_SETTLING_SECONDS = 1.0


@dataclass(frozen=True)
class Server:
    """Who is asked.

    Attributes:
        name: In the tables.
        client: Bound to its address.
        body: The request.
    """

    name: str
    client: httpx.Client
    body: Mapping[str, Any]

    def seconds(self) -> float:
        """Ask once, and wait for the answer."""
        start = time.perf_counter()
        answer = self.client.post("/v1/completions", json=self.body)
        answer.raise_for_status()
        return time.perf_counter() - start


def request_body(cards: Sequence[Mapping[str, Any]], n_tokens: int) -> dict[str, Any]:
    """A greedy request of `n_tokens`, for what a server's /v1/models lists.

    With the first cartridge where the server is ours and has one.
    """
    # Ours has a card for each cartridge, whose parent is the base model.
    steered = (card["id"] for card in cards if card.get("parent") is not None)
    model = next(steered, cards[0]["id"])
    return {
        "model": model,
        "prompt": PROMPT,
        "max_tokens": n_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }


@contextmanager
def beside(commands: Sequence[Sequence[str]]) -> Iterator[None]:
    """Run commands until the block is left."""
    running = [subprocess.Popen(c, stdout=subprocess.DEVNULL) for c in commands]  # noqa: S603
    try:
        time.sleep(_SETTLING_SECONDS if running else 0)
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def busy_loops(count: int) -> list[list[str]]:
    """Commands that each keep one processor busy, and end by themselves."""
    return [[sys.executable, "-c", _LOOP, str(LONGEST_SECONDS)] for _ in range(count)]


def measure(servers: Sequence[Server], repeats: int, *, together: bool) -> dict[str, list[float]]:
    """Seconds of each server's answers; one that does not count comes first."""
    taken: dict[str, list[float]] = {server.name: [] for server in servers}
    with ThreadPoolExecutor(len(servers)) as pool:
        for number in range(repeats + 1):
            if together:
                seconds = list(pool.map(Server.seconds, servers))
            else:
                seconds = [server.seconds() for server in servers]
            if number:
                for server, value in zip(servers, seconds, strict=True):
                    taken[server.name].append(value)
    return taken


def lines(what: str, taken: Mapping[str, Sequence[float]], alone: Mapping[str, float]) -> list[str]:
    """One a server: median, largest, and the ratio of the median to that with nothing beside."""
    out = []
    for name, values in taken.items():
        spread = Spread.of(values)
        ratio = f", {spread.median / alone[name]:.2f} times that alone" if name in alone else ""
        seconds = f"{spread.median:.3f} s, at most {spread.high:.3f} s"
        out.append(f"beside {what}: {name} {seconds}{ratio}")
    return out


def _open(given: str, n_tokens: int, owned: ExitStack) -> Server:
    name, _, url = given.partition("=")
    client = owned.enter_context(httpx.Client(base_url=url.rstrip("/"), timeout=LONGEST_SECONDS))
    answer = client.get("/v1/models")
    answer.raise_for_status()
    body = request_body(answer.json()["data"], n_tokens)
    if answer.json()["data"][0].get("owned_by") == "llamacpp":
        body["cache_prompt"] = False
    return Server(name, client, body)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", action="append", required=True, metavar="NAME=URL")
    parser.add_argument("--loads", type=int, nargs="*", default=[0, 2, 4], help="busy loops")
    parser.add_argument("--beside", action="append", default=[], metavar="COMMAND")
    parser.add_argument("--together", action="store_true", help="ask all servers at once")
    parser.add_argument("--tokens", type=int, default=24, help="of each answer")
    add_run_options(parser, repeats=9)
    options = parser.parse_args()
    situations = {f"{n} busy loops" if n else ALONE: busy_loops(n) for n in options.loads}
    situations |= {f"'{command}'": [shlex.split(command)] for command in options.beside}
    with ExitStack() as owned:
        servers = [_open(given, options.tokens, owned) for given in options.server]
        how = {"tokens": options.tokens, "asked": "at once" if options.together else "in turn"}
        report = Report(machine_facts(None) | how, options.json)
        alone: dict[str, float] = {}
        for what, commands in situations.items():
            with beside(commands):
                taken = measure(servers, options.repeats, together=options.together)
            report.figure(what, taken, "\n".join(lines(what, taken, alone)))
            if what == ALONE:
                alone = {name: Spread.of(values).median for name, values in taken.items()}
        report.write()


if __name__ == "__main__":
    main()
