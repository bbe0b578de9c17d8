"""What the benchmark scripts share: alternating repetitions, ratios, tables, JSON, machine facts.

A machine's speed drifts while a benchmark runs, so the ways to compare take turns (A B C A B C …)
and a ratio is formed within each turn, between neighbours in time. What is reported of the ratios
is their median, smallest and largest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from llamacart.cartridge import Cartridge, LayerMap
from llamacart.matrix import FactoredMatrix, QuantizedMatrix

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    import httpx

    from llamacart.llama.model import Model

ROOT = Path(__file__).parents[1]
DEMO_CARTRIDGE = ROOT / "demo" / "french.gguf"
TEXT = (
    "When the train finally arrived at the station, most of the people who had been waiting on "
    "the platform since the early morning had already gone home. The old clock above the ticket "
    "office showed half past nine, although it had stopped years ago, and nobody had found the "
    "time or the money to repair it. A woman with two heavy bags asked the driver whether he would "
    "go on to the coast that evening, and he told her that it depended on the weather in the "
    "mountains. "
)


# --- repetitions and ratios -----------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some repetitions."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summary of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def alternate(
    variants: Mapping[str, Callable[[], float]], repeats: int, *, warm_up: int = 1
) -> dict[str, list[float]]:
    """Measure every variant once in each repetition, in turn.

    Args:
        variants: By name, functions that return one measurement.
        repeats: Repetitions that count.
        warm_up: Repetitions before them that do not.
    """
    if repeats < 1:
        raise ValueError(f"repeats has value {repeats}; at least 1 is needed")
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(warm_up + repeats):
        for name, measure in variants.items():
            value = measure()
            if number >= warm_up:
                samples[name].append(value)
    return samples


@dataclass(frozen=True)
class Comparison:
    """Variants measured in turn, each against one of them.

    Attributes:
        title: What was measured, and on what.
        unit: Of the measurements.
        base: The variant that the others are divided by.
        samples: By variant, one measurement a repetition.
    """

    title: str
    unit: str
    base: str
    samples: Mapping[str, Sequence[float]]

    def spread(self, name: str) -> Spread:
        """Of a variant's measurements."""
        return Spread.of(self.samples[name])

    def ratio(self, name: str) -> Spread:
        """Of a variant's measurements over the base's of the same repetition."""
        pairs = zip(self.samples[name], self.samples[self.base], strict=True)
        return Spread.of([value / base for value, base in pairs])

    def table(self) -> Table:
        """One row a variant."""
        table = Table("", self.unit, f"ratio to {self.base}", "smallest", "largest")
        table.title, table.title_justify = self.title, "left"
        for name in self.samples:
            ratio = self.ratio(name)
            table.add_row(
                name,
                f"{self.spread(name).median:.4g}",
                *(f"{value:.3f}" for value in (ratio.median, ratio.low, ratio.high)),
            )
        return table

    def as_json(self) -> dict[str, Any]:
        """Everything, with what the table shows."""
        return {
            "title": self.title,
            "unit": self.unit,
            "base": self.base,
            "variants": {
                name: {
                    **asdict(self.spread(name)),
                    "ratio": asdict(self.ratio(name)),
                    "samples": list(samples),
                }
                for name, samples in self.samples.items()
            },
        }


# --- what comes out -------------------------------------------------------------------------


@dataclass
class Report:
    """Prints comparisons and single figures as they come, and writes all of them as JSON.

    Attributes:
        facts: What the figures depend on.
        path: Where the JSON goes; None writes none.
    """

    facts: Mapping[str, Any]
    path: Path | None = None
    comparisons: list[Comparison] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    console: Console = field(default_factory=Console)

    def __post_init__(self) -> None:
        if self.path is not None:  # before the measurement, not after it
            self.path.parent.mkdir(parents=True, exist_ok=True)
        shown = (f"{name} {value}" for name, value in self.facts.items() if value is not None)
        self.console.print(", ".join(shown), style="dim", highlight=False)

    def compare(self, comparison: Comparison) -> None:
        """Print and keep a comparison."""
        self.comparisons.append(comparison)
        self.console.print(comparison.table())

    def figure(self, name: str, value: Any, text: str) -> None:
        """Print `text`; keep the value under `name`."""
        self.figures[name] = value
        self.console.print(text, highlight=False, markup=False)

    def write(self) -> None:
        """Write the JSON file, where one is wanted."""
        if self.path is not None:
            content = {
                "facts": dict(self.facts),
                "comparisons": [comparison.as_json() for comparison in self.comparisons],
                "figures": self.figures,
            }
            self.path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


# --- machine, model, cartridge --------------------------------------------------------------


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as Linux says it or as Python does."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def machine_facts(threads: int | None) -> dict[str, Any]:
    """What of the machine the figures depend on; nothing that tells whose it is."""
    from llamacart.machine.processors import choose_threads

    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": choose_threads(threads),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "llama-cpp-python": version("llama-cpp-python"),
        "llamacart": version("llamacart"),
        # Well above 0 says that something else was running: such figures are worth little.
        "load before": round(os.getloadavg()[0], 2),
    }


def model_facts(model: Model, cartridge: Cartridge | None = None) -> dict[str, Any]:
    """Which model and cartridge were used, by name and content."""
    facts: dict[str, Any] = {
        "model": f"{model.name} {model.fingerprint.weights_hash[:12]}",
        "batch-invariant": model.batch_invariant,
    }
    if cartridge is not None:
        facts["cartridge"] = f"{cartridge.name} {cartridge.content_hash[:12]}"
        facts["active neurons"] = cartridge.n_active
    return facts


def fixed_tokens(model: Model, count: int, *, start: int = 0) -> list[int]:
    """`count` tokens of English, after BOS; another `start` begins elsewhere in the text."""
    words = model.tokenize(TEXT, add_special=False)
    text = [words[(start + i) % len(words)] for i in range(count)]
    if model.bos_token >= 0:
        text[0] = model.bos_token
    return text


def distinct(cartridge: Cartridge, count: int) -> list[Cartridge]:
    """Cartridges of the same size that share neither content hash nor memory.

    They have the neurons and weights of `cartridge`, all copied, and biases that differ by less
    than a thousandth: the same work, from memory of its own.
    """
    return [
        replace(
            cartridge,
            metadata=replace(cartridge.metadata, name=f"{cartridge.name}-{number}"),
            layers=tuple(_copy(layer_map, number) for layer_map in cartridge.layers),
        )
        for number in range(count)
    ]


def _copy(layer_map: LayerMap, number: int) -> LayerMap:
    bias = layer_map.bias * (1 + 1e-5 * number) + 1e-6 * number
    return LayerMap(
        layer_map.layer,
        layer_map.neurons.copy(),
        _copy_of(layer_map.delta),
        bias.astype(layer_map.bias.dtype),
    )


def _copy_of(delta: Any) -> Any:
    if isinstance(delta, FactoredMatrix):
        return FactoredMatrix(delta.left.copy(), _copy_of(delta.right))
    return delta and QuantizedMatrix(delta.values.copy(), delta.scales.copy())


# --- servers --------------------------------------------------------------------------------


class ServerError(Exception):
    """A server refused a request, or ended it with an error."""


async def stream_events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event up to `[DONE]`.

    Raises:
        ServerError: An event says so.
    """
    async for line in response.aiter_lines():
        kind, _, data = line.partition(":")
        if kind == "data" and data.strip() != "[DONE]":
            event = json.loads(data)
            if "error" in event:
                raise ServerError(f"{response.url} answered {event['error']}")
            yield event
        elif kind == "error":
            raise ServerError(f"{response.url} answered {data.strip()}")


async def check_status(response: httpx.Response) -> None:
    """Raise `ServerError`, with what the server says, where it did not take the request."""
    if response.status_code != 200:
        text = (await response.aread()).decode("utf-8", "replace")
        raise ServerError(f"{response.url} answered {response.status_code}: {text[:500]}")


# --- command line ---------------------------------------------------------------------------


def add_run_options(parser: argparse.ArgumentParser, *, repeats: int = 5) -> None:
    """`--repeats` and `--json`, which every comparison has."""
    parser.add_argument("--repeats", type=int, default=repeats, help="repetitions that count")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--cartridge`, `--threads` and `--no-batch-invariant`."""
    parser.add_argument("--model", default="demo", help="GGUF path, 'demo' or hf:…")
    parser.add_argument(
        "--cartridge", type=Path, default=DEMO_CARTRIDGE, help="default: what `make demo` made"
    )
    parser.add_argument("--threads", type=int, help="default: all processors")
    parser.add_argument(
        "--batch-invariant",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compute as the server does by default",
    )
