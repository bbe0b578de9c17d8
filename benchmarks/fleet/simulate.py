"""Simulates a fleet: how routers, memory for cartridges and load go together.

A box computes up to `--parallel` requests at once. A step gives each of them a token, and takes as
long as was measured for so many rows (`--steps`, from `decode_overhead.py`). A token of a prompt
costs as much as a row of a full step. A request whose cartridge is not there first waits until it
is loaded (`--load-ms`, from `models/random_cartridge.py`), one load after the other; a box keeps
the `--held` cartridges used last. Requests come at random (Poisson), each with a cartridge by
Zipf's law. With `--clients` as many clients ask again when they have their answer, and cartridges
are equally wanted.

Routers: `hash` as HAProxy does it (by cartridge, nobody above `--factor` times the average),
`least` (the less loaded of two, Ray's without ids), `affine` (of those that have the cartridge the
less loaded of two; Ray's with ids, which gives a holder up only where it takes nothing more).

Usage: simulate.py [--rates 10,100] [--use 0.7] [--cartridges 10000] [--held 64] …
       simulate.py --boxes 3 --clients 6 --requests 200 --cartridges 12 --held 6 …
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
import zlib
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS = "1:73.0,8:299.8,16:517.9"
"""Milliseconds by rows, each under a cartridge: Gemma 3 1B on one core (docs/models.md)."""
MOST_LOOKED_AT = 500
ROUTERS = ("hash", "least", "affine")


@dataclass
class Request:
    """A request and what became of it; times in seconds."""

    cartridge: int
    start: float
    met: bool = False
    seconds: float = 0.0


@dataclass
class Machine:
    """What a box can do; `given` are the script's arguments."""

    given: argparse.Namespace
    steps: list[float] = field(init=False)

    def __post_init__(self) -> None:
        pairs = [pair.split(":") for pair in self.given.steps.split(",")]
        rows, ms = [int(r) for r, _ in pairs], [float(m) for _, m in pairs]
        counts = np.arange(self.given.parallel + 1)
        self.steps = [float(s) / 1000 for s in np.interp(counts, rows, ms)]

    @property
    def work(self) -> float:
        """Steps of a request in a full box; a prompt's tokens are rows among the others'."""
        return self.given.answer + self.given.prompt / self.given.parallel

    @property
    def most(self) -> float:
        """Requests a second of a box that is always full."""
        return self.given.parallel / (self.work * self.steps[-1])


class Box:
    """Shares its steps among the requests that it computes.

    `progress` is the number of steps so far: a request that begins at p ends at p + work.
    """

    def __init__(self, number: int, machine: Machine) -> None:
        self.number = number
        self._machine = machine
        self._limit = machine.given.parallel
        self.progress = 0.0
        self.since = 0.0
        self.running: list[tuple[float, int, Request]] = []
        self.waiting: deque[Request] = deque()
        self.held: OrderedDict[int, None] = OrderedDict()
        self.loading = 0
        self.free = 0.0  # when the loads so far are done
        self.version = 0
        self.loads = 0

    @property
    def load(self) -> int:
        """Requests that it has."""
        return len(self.running) + len(self.waiting) + self.loading

    def advance(self, now: float) -> None:
        """Compute until `now`."""
        if self.running:
            self.progress += (now - self.since) / self._machine.steps[len(self.running)]
        self.since = now

    def next_end(self) -> float:
        """When the first of its requests ends."""
        if not self.running:
            return math.inf
        left = max(0.0, self.running[0][0] - self.progress)
        return self.since + left * self._machine.steps[len(self.running)]

    def add(self, request: Request, order: int) -> None:
        """Compute a request, or have it wait."""
        if len(self.running) < self._limit:
            entry = (self.progress + self._machine.work, order, request)
            heapq.heappush(self.running, entry)
        else:
            self.waiting.append(request)


class Fleet:
    """Boxes behind a router."""

    def __init__(self, n_boxes: int, router: str, machine: Machine) -> None:
        self.boxes = [Box(i, machine) for i in range(n_boxes)]
        self._router = router
        self._given = machine.given
        self._machine = machine
        self._rng = random.Random(1)
        self._holders: dict[int, dict[int, None]] = {}
        self._n_open = 0
        self._events: list[tuple[float, int, str, object, int]] = []
        self._order = itertools.count()
        self.done: list[Request] = []

    def run(self, arrivals: list[Request], clients: int | None) -> None:
        """Answer all requests; with `clients` one begins when another has ended."""
        waiting = deque(arrivals)
        for _ in range(clients or len(waiting)):
            request = waiting.popleft()
            self._push(request.start, "arrives", request)
        while self._events:
            now, _, kind, thing, version = heapq.heappop(self._events)
            if kind == "arrives":
                self._arrive(thing, now)
                continue
            box = thing[0] if kind == "loaded" else thing
            if kind == "ends" and version != box.version:
                continue
            box.advance(now)
            if kind == "loaded":
                box.loading -= 1
                box.add(thing[1], next(self._order))
            else:
                self._end(box, now)
                if clients and waiting:
                    request = waiting.popleft()
                    request.start = now
                    self._push(now, "arrives", request)
            self._plan(box)

    def _push(self, when: float, kind: str, thing: object, version: int = 0) -> None:
        heapq.heappush(self._events, (when, next(self._order), kind, thing, version))

    def _plan(self, box: Box) -> None:
        box.version += 1
        when = box.next_end()
        if when < math.inf:
            self._push(when, "ends", box, box.version)

    def _arrive(self, request: Request, now: float) -> None:
        box = self._choose(request.cartridge)
        self._n_open += 1
        request.met = request.cartridge in box.held
        box.held[request.cartridge] = None
        box.held.move_to_end(request.cartridge)
        box.advance(now)
        if request.met:
            box.add(request, next(self._order))
        else:
            self._holders.setdefault(request.cartridge, {})[box.number] = None
            if len(box.held) > self._given.held:
                gone, _ = box.held.popitem(last=False)
                del self._holders[gone][box.number]
            box.loads += 1
            box.loading += 1
            box.free = max(box.free, now) + self._given.load_ms / 1000
            self._push(box.free, "loaded", (box, request))
        self._plan(box)

    def _end(self, box: Box, now: float) -> None:
        _, _, request = heapq.heappop(box.running)
        request.seconds = now - request.start
        self.done.append(request)
        self._n_open -= 1
        if box.waiting:
            box.add(box.waiting.popleft(), next(self._order))

    def _choose(self, cartridge: int) -> Box:
        if self._router == "hash":
            most = self._given.factor * (self._n_open + 1) / len(self.boxes)
            first = zlib.crc32(str(cartridge).encode())
            tries = (self.boxes[(first + i) % len(self.boxes)] for i in range(len(self.boxes)))
            return next((box for box in tries if box.load < most), self.boxes[0])
        candidates: Sequence[int] = ()
        if self._router == "affine":
            candidates = list(self._holders.get(cartridge, ())) or self._emptiest()
        for numbers in (candidates, range(len(self.boxes))):
            if numbers:
                two = [self.boxes[self._rng.choice(numbers)] for _ in range(2)]
                box = min(two, key=lambda box: box.load)
                if box.load < self._given.ongoing:
                    return box
        return min(self._rng.sample(self.boxes, min(8, len(self.boxes))), key=lambda b: b.load)

    def _emptiest(self) -> Sequence[int]:
        """Boxes with the fewest cartridges, among some where there are very many."""
        seen = self._rng.sample(self.boxes, min(MOST_LOOKED_AT, len(self.boxes)))
        fewest = min(len(box.held) for box in seen)
        return [box.number for box in seen if len(box.held) == fewest]


def arrivals(rate: float, seconds: float, given: argparse.Namespace) -> list[Request]:
    """Requests at random times, their cartridges by Zipf's law."""
    rng = np.random.default_rng(0)
    n = rng.poisson(rate * seconds)
    weights = 1 / np.arange(1, given.cartridges + 1) ** given.zipf
    chosen = rng.choice(given.cartridges, n, p=weights / weights.sum())
    times = np.sort(rng.uniform(0, seconds, n))
    return [Request(int(c), float(t)) for c, t in zip(chosen, times, strict=True)]


def show(fleet: Fleet, name: str, seconds: float, skip: float) -> None:
    """A row of the table; what came in the first `skip` seconds is left out."""
    seen = [request for request in fleet.done if request.start >= skip]
    times = np.array([request.seconds for request in seen])
    met = sum(request.met for request in seen) / len(seen)
    by_box = sorted(len(box.held) for box in fleet.boxes)
    loads = len([r for r in seen if not r.met]) / (seconds - skip)
    print(
        f"| {name} | {met:.0%} | {loads:.1f} | {np.median(times):.1f} | "
        f"{np.quantile(times, 0.95):.1f} | {np.quantile(times, 0.99):.1f} | {by_box[-1]} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rates", default="10,100", help="requests a second")
    parser.add_argument("--use", type=float, default=0.7, help="share of what the boxes can do")
    parser.add_argument("--steps", default=STEPS, help="rows:milliseconds,…")
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=32, help="tokens")
    parser.add_argument("--answer", type=int, default=64, help="tokens")
    parser.add_argument("--load-ms", type=float, default=168)
    parser.add_argument("--held", type=int, default=64, help="cartridges of a box")
    parser.add_argument("--ongoing", type=int, help="requests a box takes; default: --parallel")
    parser.add_argument("--factor", type=float, default=1.5, help="of `hash`, times the average")
    parser.add_argument("--mib", type=float, default=57.6, help="MiB of a cartridge")
    parser.add_argument("--cartridges", type=int, default=10_000)
    parser.add_argument("--zipf", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--boxes", type=int, help="with --clients")
    parser.add_argument("--clients", type=int)
    parser.add_argument("--requests", type=int, default=200, help="with --clients")
    given = parser.parse_args()
    given.ongoing = given.ongoing or given.parallel  # as `llamacart_server.ray_app` has it
    machine = Machine(given)
    tokens, gib = given.parallel / machine.steps[-1], given.held * given.mib / 1024
    print(f"a full box: {machine.most:.2f} requests and {tokens:.0f} tokens a second")
    print(f"its cartridges: up to {gib:.1f} GiB")
    head = "met | loads/s | median s | 95 % | 99 % | held |\n|---|---|---|---|---|---|---|"
    if given.clients:
        print(f"\n| router | {head}")
        for router in ROUTERS:
            fleet = Fleet(given.boxes, router, machine)
            rng = random.Random(0)
            requests = [
                Request(rng.randrange(given.cartridges), 0.0) for _ in range(given.requests)
            ]
            fleet.run(requests, given.clients)
            show(fleet, router, max(r.start + r.seconds for r in fleet.done), 0.0)
        return
    for rate in map(float, given.rates.split(",")):
        n_boxes = math.ceil(rate / (given.use * machine.most))
        wanted = arrivals(rate, given.seconds, given)
        n_wanted = len(Counter(request.cartridge for request in wanted))
        print(f"\n{rate:g} requests a second, {n_boxes} boxes, {n_wanted} cartridges are asked for")
        print(f"\n| router | {head}")
        for router in ROUTERS:
            fleet = Fleet(n_boxes, router, machine)
            fleet.run([Request(r.cartridge, r.start) for r in wanted], None)
            show(fleet, router, given.seconds, given.seconds / 3)


if __name__ == "__main__":
    main()
