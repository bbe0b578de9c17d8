"""What a training costs: wall time by phase and memory, by number of pairs and by FFN width.

`pairs` trains a cartridge on so many pairs, each number in a process of its own, so that its peak
memory is its own. The pairs are those of a recipe (or of a data set in the paper's JSON, with its
numbers of generated tokens); where more are wanted than there are, they come again behind a number
of their own ("2. "), which makes other texts of them and keeps their length.

`fit` times the fit of one layer on random activations of the given shape: x normal, y = x plus a
constant at K neurons plus noise.

Usage: training_time.py [--pairs 40 400] [--data DATA] [--max-memory GIB] [--widths 2048 6912]
                        [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from harness import ROOT, machine_facts
from rich.console import Console
from rich.table import Table

from llamacart.llama.model import Model
from llamacart.machine.memory import default_memory
from llamacart_trainer.fitting.layer import fit_layer
from llamacart_trainer.fitting.settings import FitSettings
from llamacart_trainer.fitting.training import train
from llamacart_trainer.recipe.recipe import Task, TextPair, load_task

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 2**20
K = 100


def peak_memory() -> int:
    """Bytes: the largest resident set that this process has had."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def grow(pairs: Sequence[TextPair], n: int) -> tuple[TextPair, ...]:
    """The first n pairs; where there are not so many, numbered ones after them."""
    numbered = (
        replace(pair, source=f"{number}. {pair.source}", target=f"{number}. {pair.target}")
        for number in count(2)
        for pair in pairs
    )
    return tuple(islice(chain(pairs, numbered), n))


def time_training(options: argparse.Namespace, n_pairs: int) -> dict[str, Any]:
    """Phases of one training in this process."""
    started = time.perf_counter()
    task = load_task(options.data)
    pairs = grow(task.pairs, n_pairs)
    if options.written_only:
        pairs = tuple(replace(pair, source_tokens=0, target_tokens=0) for pair in pairs)
    task = Task(task.recipe, pairs, task.neutral)
    with Model(options.model, batch_invariant=True) as model:
        loading = time.perf_counter() - started
        result = train(task, model, max_memory=int(options.max_memory * 2**30))
    seconds = {"load the model": loading, **result.seconds, "total": time.perf_counter() - started}
    return {
        "pairs": n_pairs,
        "rows": result.n_rows,
        "seconds": seconds,
        "peak MiB": peak_memory() / MIB,
    }


def time_fit(width: int, n_rows: int) -> dict[str, Any]:
    """One layer's fit on random activations."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n_rows, width), np.float32)
    y = x + 0.1 * rng.standard_normal((n_rows, width), np.float32)
    y[:, rng.choice(width, K, replace=False)] += 1.0
    before = peak_memory()
    started = time.perf_counter()
    _, report = fit_layer(0, x, y, FitSettings(threshold=0.03, penalty=300.0))
    return {
        "D": width,
        "N": n_rows,
        "K": report.kept,
        "seconds": time.perf_counter() - started,
        "activations MiB": (x.nbytes + y.nbytes) / MIB,
        "more MiB": (peak_memory() - before) / MIB,
    }


def in_own_process(*arguments: object) -> dict[str, Any]:
    """What this script prints with other arguments."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, nargs="*", default=[40, 400])
    parser.add_argument("--data", type=Path, default=ROOT / "cartridges/library/french")
    parser.add_argument("--model", default="demo")
    parser.add_argument(
        "--max-memory",
        type=float,
        default=default_memory() / 2**30,
        help="GiB that activations may take",
    )
    parser.add_argument(
        "--written-only", action="store_true", help="without the data set's generated tokens"
    )
    parser.add_argument("--widths", type=int, nargs="*", default=[2048, 6912])
    parser.add_argument("--rows", type=int, nargs="*", default=[700, 16000])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--one-training", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(time_fit(*options.one)))
        return
    if options.one_training:
        print(json.dumps(time_training(options, options.one_training)))
        return
    settings = ["--data", options.data, "--model", options.model]
    settings += ["--max-memory", options.max_memory]
    settings += ["--written-only"] if options.written_only else []
    trainings = []
    for n in options.pairs:
        trainings.append(in_own_process("--one-training", n, *settings))
        print(f"{n} pairs: {trainings[-1]['seconds']['total']:.1f} s", flush=True)
    fits = [in_own_process("--one", d, n) for d in options.widths for n in options.rows]
    show(trainings, fits)
    if options.json:
        found = {"machine": machine_facts(None), "trainings": trainings, "fits": fits}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=2))


def show(trainings: Sequence[dict[str, Any]], fits: Sequence[dict[str, Any]]) -> None:
    console = Console()
    if trainings:
        phases = list(trainings[0]["seconds"])
        table = Table("pairs", "rows", *(f"{phase} (s)" for phase in phases), "peak MiB")
        for row in trainings:
            seconds = (f"{row['seconds'][phase]:.1f}" for phase in phases)
            table.add_row(str(row["pairs"]), str(row["rows"]), *seconds, f"{row['peak MiB']:.0f}")
        console.print(table)
    if fits:
        table = Table(*fits[0])
        for row in fits:
            table.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()))
        console.print(table)


if __name__ == "__main__":
    main()
