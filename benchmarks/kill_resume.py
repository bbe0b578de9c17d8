"""Whether a training that is killed again and again ends in the same file as one that is not.

Trains a recipe once undisturbed, then in processes that are killed (SIGKILL) at random moments,
from loading to writing, each going on from the checkpoints of the one before. The longer ones get
ever longer, so that one of them comes to the end. Compares the two files byte by byte.

Usage: kill_resume.py [RECIPE] [--model SPEC] [--seed N]
"""

from __future__ import annotations

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import ROOT
from rich.console import Console
from rich.table import Table

DIGITS = 16


def command(recipe: Path, model: str, output: Path) -> list[str]:
    start = "from llamacart.cli import main; main()"
    arguments = ["train", str(recipe), "--model", model, "--output", str(output)]
    return [sys.executable, "-c", start, *arguments]


def train_once(recipe: Path, model: str, output: Path) -> float:
    """Wall time of an undisturbed training."""
    started = time.perf_counter()
    subprocess.run(command(recipe, model, output), check=True, capture_output=True)  # noqa: S603
    return time.perf_counter() - started


def train_killed(
    recipe: Path, model: str, output: Path, lasts: float, seed: int
) -> list[tuple[float, int]]:
    """Train under random kills; for each, after how many seconds, and layers finished by then."""
    rng = random.Random(seed)
    kills: list[tuple[float, int]] = []
    while True:
        process = subprocess.Popen(  # noqa: S603
            command(recipe, model, output), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        patience = rng.uniform(0.1, 0.6 + 0.1 * len(kills)) * lasts
        try:
            _, errors = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            done = list(output.with_name(f"{output.name}.job").glob("layer-*.json"))
            kills.append((patience, len(done)))
            continue
        if process.returncode != 0:
            sys.exit(f"training failed: {errors.decode().strip()}")
        return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", nargs="?", type=Path, default=ROOT / "cartridges/library/french")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole.gguf", Path(folder) / "killed.gguf"
        lasts = train_once(options.recipe, options.model, whole)
        kills = train_killed(options.recipe, options.model, killed, lasts, options.seed)
        table = Table("killed after (s)", "layers finished")
        for seconds, layers in kills:
            table.add_row(f"{seconds:.1f}", str(layers))
        console = Console()
        console.print(table)
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (whole, killed)]
        console.print(f"undisturbed: {lasts:.1f} s, SHA-256 {digests[0][:DIGITS]}")
        console.print(f"killed {len(kills)} times: SHA-256 {digests[1][:DIGITS]}")
        if digests[0] != digests[1]:
            sys.exit("the files differ")
        console.print("the files are identical")


if __name__ == "__main__":
    main()
