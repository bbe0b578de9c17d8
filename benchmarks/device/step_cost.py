"""What steering would cost a token on devices that are not at hand, by a model of its parts.

A token without steering takes the time of reading the model's weights once, and of starting the
model's own operations. Each steered layer adds

    one stop                  the graph is cut, the host waits for the device and starts it again
    + kernels × launch        the operations of our own graph, which nobody waits for
    + bytes / bandwidth       the cartridge's rows of that layer
    and one wait a token, for what the graphs tell
 or, by copies to the host:
    one stop + two transfers  h of the row to the host and back, a wait each
    + weights / host speed    the products, on one thread there

What is counted from this code (operations, bytes) is marked `counted`, what a benchmark here or
`llamacart doctor --measure` told is `measured`; the rest is `assumed` and can be given.

Usage: step_cost.py [--neurons 150] [--stop NAME=NUMBER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

KERNELS = 9
"""Operations of a layer's graph for rows that follow each other, views left out (counted)."""

MODEL_KERNELS = 22
"""Operations of a layer of the model itself, views left out (counted: 727 nodes in 18 layers)."""

Q8_0_BYTES = 34 / 32
"""Bytes of a weight on the device (counted)."""

HOST_WEIGHTS_PER_SECOND = 5e9
"""Products of the compiled kernel on one thread (assumed; `llamacart doctor` tells a machine's)."""

NEGLIGIBLE = 0.05
"""Share of a token's time that nobody notices."""

UNITS = {"stop": "µs", "wait": "µs", "launch": "µs", "replay": "µs", "bandwidth": "GB/s"}
"""What can be given."""


@dataclass(frozen=True)
class Shape:
    """A model: its name, bytes of its weights as Q4_K_M, layers and D."""

    name: str
    weights: float
    n_layer: int
    width: int


@dataclass(frozen=True)
class Machine:
    """A device; microseconds and bytes a second, all assumed unless given.

    Attributes:
        name: It.
        bandwidth: Of its memory.
        reached: Share of it that reading weights reaches.
        stop: One cut of the graph: wait and start again.
        wait: One wait for a transfer of our own.
        launch: One kernel after another.
        replay: The same where llama.cpp has recorded its kernels.
        link: Between device and host.
    """

    name: str
    bandwidth: float
    reached: float
    stop: float
    wait: float
    launch: float
    replay: float
    link: float


SHAPES = (
    Shape("Gemma 3 270M", 0.25e9, 18, 2048),
    Shape("Gemma 3 1B", 0.81e9, 26, 6912),
    Shape("Gemma 3 4B", 2.5e9, 34, 10240),
    Shape("Gemma 3 12B", 7.3e9, 48, 15360),
    Shape("Gemma 3 27B", 16.5e9, 62, 21504),
)
MACHINES = (
    Machine("Metal, M2", 100e9, 0.7, stop=100, wait=100, launch=3, replay=2, link=20e9),
    Machine("Metal, M2 Max", 400e9, 0.7, stop=100, wait=100, launch=3, replay=2, link=20e9),
    Machine("CUDA, H100", 3350e9, 0.6, stop=20, wait=10, launch=3, replay=1, link=25e9),
    Machine("CUDA, RTX 4090", 1008e9, 0.7, stop=20, wait=10, launch=3, replay=1, link=20e9),
)


@dataclass(frozen=True)
class Cost:
    """Milliseconds of a token of one row.

    Attributes:
        token: Without steering.
        stops: Of cutting the graph at each layer.
        graphs: Of our graphs: launches and weights, and the wait at the end.
        copies: Of the same by copies to the host, without the stops.
    """

    token: float
    stops: float
    graphs: float
    copies: float

    @property
    def share_on_device(self) -> float:
        """What steering on the device adds, as a share of the token."""
        return (self.stops + self.graphs) / self.token

    @property
    def share_by_copies(self) -> float:
        """What steering by copies adds."""
        return (self.stops + self.copies) / self.token


def cost(machine: Machine, shape: Shape, neurons: int) -> Cost:
    """What all layers of a model cost a token.

    Args:
        machine: The device.
        shape: The model.
        neurons: K of each layer.
    """
    products = neurons * shape.width
    graph = KERNELS * machine.launch
    graph += 1e6 * products * Q8_0_BYTES / (machine.bandwidth * machine.reached)
    transfers = 2 * (machine.wait + 1e6 * 4 * shape.width / machine.link)
    host = 1e6 * products / HOST_WEIGHTS_PER_SECOND
    per_layer = shape.n_layer / 1e3
    token = 1e6 * shape.weights / (machine.bandwidth * machine.reached)
    token += shape.n_layer * MODEL_KERNELS * machine.replay
    return Cost(
        token / 1e3,
        machine.stop * per_layer,
        graph * per_layer + machine.wait / 1e3,
        (transfers + host) * per_layer,
    )


def disappears_at(machine: Machine, layers: int) -> float:
    """Bytes of weights from which the stops of so many layers are `NEGLIGIBLE`."""
    return layers * machine.stop * 1e-6 / NEGLIGIBLE * machine.bandwidth * machine.reached


def table(machines: tuple[Machine, ...], neurons: int) -> str:
    """Every model on every device, in Markdown."""
    rows = [
        "| device | model | token, ms | stops, ms | graphs, ms | steered | by copies to the host |",
        "|---|---|---|---|---|---|---|",
    ]
    for machine in machines:
        for shape in SHAPES:
            c = cost(machine, shape, neurons)
            rows.append(
                f"| {machine.name} | {shape.name} | {c.token:.2f} | {c.stops:.2f} | "
                f"{c.graphs:.2f} | × {1 + c.share_on_device:.2f} | × {1 + c.share_by_copies:.2f} |"
            )
    return "\n".join(rows)


def given(machines: tuple[Machine, ...], field: str, values: list[str]) -> tuple[Machine, ...]:
    """Machines with what `NAME=NUMBER` says of one of them.

    Raises:
        ValueError: There is no such machine, or it is no number.
    """
    for value in values:
        name, _, number = value.rpartition("=")
        if name not in [machine.name for machine in machines]:
            raise ValueError(f"no machine is called {name!r}")
        scale = 1e9 if field == "bandwidth" else 1.0
        machines = tuple(
            replace(m, **{field: scale * float(number)}) if m.name == name else m for m in machines
        )
    return machines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--neurons", type=int, default=150, help="K of each layer")
    for field, unit in UNITS.items():
        parser.add_argument(f"--{field}", nargs="+", default=[], metavar="NAME=NUMBER", help=unit)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    options = parser.parse_args()
    machines = MACHINES
    for field in UNITS:
        machines = given(machines, field, getattr(options, field))
    print(table(machines, options.neurons))
    for machine in machines:
        at = disappears_at(machine, 34) / 1e9
        print(f"\n{machine.name}: 34 stops are {NEGLIGIBLE:.0%} of a token from {at:.1f} GB on")
    if options.json is not None:
        found = [
            {"device": m.name, "model": s.name, **vars(cost(m, s, options.neurons))}
            for m in machines
            for s in SHAPES
        ]
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
