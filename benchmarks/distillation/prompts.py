"""How near a distilled cartridge comes to its prompt, beside what else one would try.

For each wish: `llamacart distill` makes the cartridge, and its minutes are taken. Then 60 messages
that no part of it has seen are answered by the unsteered model, by the model behind the prompt and
behind the same wish as a system line, under the cartridge, and under three fits of the same rows:
the copy of h, a mean shift and a control vector. The cartridge has the α that `distill` gave it, a
fit the one that 20 other messages chose.

Usage: prompts.py MODEL [--wishes pirate,butler] [--work FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from llamacart.file.reader import read_cartridge
from llamacart.llama.model import Model
from llamacart_trainer.evaluation.baselines import fit_baselines
from llamacart_trainer.evaluation.evaluate import evaluate
from llamacart_trainer.evaluation.plan import split_plans
from llamacart_trainer.recipe.recipe import load_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart_trainer.evaluation.results import Evaluation, Point

WISHES = Path(__file__).parent / "wishes"
PEERS = ("activation", "mean-shift", "control-vector")
ALPHAS = (0.5, 1.0, 1.2, 1.5)
COLUMNS = {
    "KL to prompted": "kl_prompted",
    "removed": "removed",
    "trait": "behaviour",
    "distinct-2": "distinct",
    "ends": "ended",
    "tokens": "length",
    "other texts, KL": "kl",
}


def distil(model: str, wish: dict[str, Any], output: Path) -> float | None:
    """Make the cartridge and the folder of its recipe; minutes, None where it was there."""
    if output.is_file():
        return None
    own = ["--examples", str(WISHES / wish["examples"])] if "examples" in wish else []
    own += [wish["prompt"]] if "prompt" in wish else []
    command = [sys.executable, "-m", "llamacart", "distill", *own, "--model", model]
    started = time.perf_counter()
    subprocess.run([*command, "-o", str(output)], check=True)  # noqa: S603
    minutes = (time.perf_counter() - started) / 60
    measured = {key: wish[key] for key in ("system", "target_words", "language") if key in wish}
    with (folder_of(output) / "recipe.toml").open("a") as recipe:
        recipe.writelines(f"{key} = {json.dumps(value)}\n" for key, value in measured.items())
    return minutes


def folder_of(output: Path) -> Path:
    """Where `distill` keeps the recipe."""
    return output.with_name(f"{output.stem}-recipe")


def measure(
    model: Model, output: Path, names: Sequence[str]
) -> tuple[list[Evaluation], list[Point]]:
    """The cartridge at its own α and its peers at theirs, on the test messages."""
    folder = folder_of(output)
    task = load_task(folder)
    validation, test = split_plans(task)
    peers = fit_baselines(task, model, names)
    cartridge = read_cartridge(output)

    def on_point(point: Point) -> None:
        print(f"  {point.label} at {point.alpha:g}", flush=True)

    own = evaluate(
        model, [cartridge], test, alphas=[cartridge.metadata.default_alpha], on_point=on_point
    )
    others = evaluate(
        model, peers, test, validation=validation, alphas=ALPHAS, brief=True, on_point=on_point
    )
    fitted = [point for point in others.tests if point.label in names]
    return [own, others], [*own.tests, *fitted]


def show(name: str, points: list[Point], console: Console) -> None:
    """Print a wish's table."""
    table = Table("", "α", *COLUMNS, title=name)
    for point in points:
        figures = (getattr(point.scores, field) for field in COLUMNS.values())
        table.add_row(
            point.label,
            f"{point.alpha:g}" if point.alpha else "",
            *("" if figure is None else str(figure) for figure in figures),
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="GGUF file of an instruct model")
    parser.add_argument("--wishes", default="pirate,butler,french")
    parser.add_argument("--peers", default=",".join(PEERS), help="fits to compare with")
    parser.add_argument("--work", type=Path, default=Path("distilled"), help="for what is made")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    console = Console(width=220)
    wishes = tomllib.loads((WISHES / "wishes.toml").read_text())
    made = {}
    for name in arguments.wishes.split(","):
        output = arguments.work / f"{name}.gguf"
        minutes = distil(arguments.model, wishes[name], output)
        with Model(arguments.model) as model:
            peers = [peer for peer in arguments.peers.split(",") if peer]
            found, points = measure(model, output, peers)
        show(name, points, console)
        tokens = {point.label: point.scores.prompt_tokens for point in points}
        lengths = ", ".join(f"{label}: {n.value:.0f}" for label, n in tokens.items() if n)
        took = "was there" if minutes is None else f"{minutes:.2f} minutes"
        console.print(
            f"{name}: {took}, {output.stat().st_size / 1e6:.2f} MB; prompt tokens: {lengths}\n"
        )
        made[name] = {
            "minutes": minutes,
            "evaluations": [dataclasses.asdict(part) for part in found],
        }
    if arguments.json:
        arguments.json.write_text(json.dumps(made, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
