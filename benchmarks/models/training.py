"""What a training takes: its seconds, the memory that it was planned to take, and that it took.

Runs `llamacart train` in a process of its own for each model, from the first N pairs of a recipe,
and prints one row for each: rows, seconds of every phase, the plan's peak, the largest resident set
(getrusage; the model's file included) and the ratio of the two. `--share` takes fewer pairs and
texts of both kinds alike, where a whole training is too long.

Usage: training.py MODEL... [--recipe cartridges/library/french] [--pairs 200] [--share 1]
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llamacart_trainer.recipe.recipe import load_task

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
_PLAN = re.compile(r"memory: (.*) of .* GiB, ([\d.]+) with the model")
_PHASE = re.compile(r"^([a-z][a-z ]+[a-z]) +([\d.]+) s$", re.MULTILINE)
_END = re.compile(r"(\d+) rows, (\d+) active neurons, ([\d.]+) MB")


@dataclass(frozen=True)
class Row:
    """What one training said of itself, and what it took.

    Attributes:
        way: How texts go through the layers.
        planned: GiB that the process was to take.
        seconds: By phase.
        rows: Source rows N.
        neurons: Active ones.
        megabytes: Of the file.
    """

    way: str
    planned: float
    seconds: dict[str, float]
    rows: int
    neurons: int
    megabytes: float

    @classmethod
    def read(cls, said: str) -> Row:
        """From what the command printed.

        Raises:
            ValueError: It did not come to its end.
        """
        plan, end = _PLAN.search(said), _END.search(said)
        if plan is None or end is None:
            raise ValueError(f"the training did not end:\n{said}")
        seconds = {phase: float(value) for phase, value in _PHASE.findall(said)}
        way = plan[1].rpartition(", ")[0]
        return cls(way, float(plan[2]), seconds, int(end[1]), int(end[2]), float(end[3]))


def shortened(recipe: Path, folder: Path, n_pairs: int | None, share: float) -> Path:
    """A copy of a recipe with its first pairs, and its first neutral texts in a file of its own."""
    task = load_task(recipe)
    copy = folder / recipe.name
    shutil.copytree(recipe, copy)
    text = (copy / "recipe.toml").read_text()
    n_pairs = len(task.pairs) if n_pairs is None else n_pairs
    lines = (recipe / task.recipe.train).read_text().splitlines()
    (copy / task.recipe.train).write_text("\n".join(lines[: max(1, round(share * n_pairs))]) + "\n")
    if share < 1 and task.neutral:
        kept = task.neutral[:: round(1 / share)]
        texts = [json.dumps({"text": t}) for t in kept if isinstance(t, str)]
        (copy / "few.jsonl").write_text("\n".join(texts) + "\n")
        text = re.sub(
            r'^neutral = ".*"', 'neutral = "few.jsonl"', text, count=1, flags=re.MULTILINE
        )
    (copy / "recipe.toml").write_text(text)
    return copy


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="GGUF path, 'demo' or hf:…")
    parser.add_argument("--recipe", type=Path, default=ROOT / "cartridges/library/french")
    parser.add_argument("--pairs", type=int, help="default: all of the recipe")
    parser.add_argument("--share", type=float, default=1.0, help="of the pairs and neutral texts")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options, more = parser.parse_known_args(arguments)
    if not 0 < options.share <= 1:
        parser.error(f"--share has value {options.share}; above 0 to 1 is needed")
    if options.one:
        with tempfile.TemporaryDirectory() as name:
            recipe = shortened(options.recipe, Path(name), options.pairs, options.share)
            train(recipe, options.models[0], Path(name) / "made.gguf", more)
        return
    failed = False
    for model in options.models:  # each in a process of its own, whose children are one training
        one = [sys.executable, __file__, model, "--one", "--recipe", str(options.recipe)]
        one += [] if options.pairs is None else ["--pairs", str(options.pairs)]
        one += ["--share", str(options.share), *more]
        failed |= subprocess.run(one, check=False).returncode != 0  # noqa: S603
    sys.exit(failed)


def train(recipe: Path, model: str, output: Path, more: list[str]) -> None:
    """Train and print the row; `more` are options of the command."""
    command = [sys.executable, "-m", "llamacart", "train", recipe, "--model", model]
    started = time.perf_counter()
    done = subprocess.run(  # noqa: S603
        [*map(str, command), "-o", str(output), "--nice", "0", *more],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    wall = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = usage.ru_maxrss / 2**30 * (1 if sys.platform == "darwin" else 1024)
    try:
        row = Row.read(done.stdout)
    except ValueError as error:
        sys.exit(f"{model}: {error}")
    phases = ", ".join(f"{phase} {value:.1f}" for phase, value in row.seconds.items())
    print(
        f"{model}: {row.rows} rows, {row.way}; {wall:.1f} s ({phases}; processor "
        f"{usage.ru_utime + usage.ru_stime:.1f}); planned {row.planned:.2f} GiB, taken "
        f"{taken:.2f} GiB, ratio {row.planned / taken:.2f}; {row.neurons} neurons, "
        f"{row.megabytes:.2f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
