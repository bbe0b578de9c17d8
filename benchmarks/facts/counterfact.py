"""CounterFact edits, taught by the trainer and measured by its evaluation, beside the prompt.

Reads records of CounterFact (Meng et al. 2022) in their flat form: `subject`, `prompt`,
`target_new`, `ground_truth`, `rephrase_prompt`, `locality_prompt`, `locality_ground_truth`. For
each number of edits it writes a recipe folder as a user would, trains it, and prints one table:
the unsteered model, the fact in the prompt, all facts in the prompt, the cartridge, and with
--paper the paper's two modes on the same statements. Nothing is chosen by what is measured: give
settings that other edits have chosen, by --set.

Usage: counterfact.py --data FILE [--model SPEC] [--edits 30 …] [--skip N] [--set KEY=VALUE …]
       [--alpha 1.0] [--paper] [--keep FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from llamacart.errors import RecipeError
from llamacart.file.writer import write_cartridge
from llamacart.llama.model import Model
from llamacart_trainer.evaluation.facts.paper import PENALTIES, paper_task
from llamacart_trainer.evaluation.facts.tables import terminal_table
from llamacart_trainer.evaluation.plan import load_plan
from llamacart_trainer.evaluation.sweep import sweep
from llamacart_trainer.fitting.training import train
from llamacart_trainer.recipe.facts import SLOT, Fact, Neighbour, check_facts
from llamacart_trainer.recipe.lines import read_lines
from llamacart_trainer.recipe.recipe import load_task

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llamacart.cartridge import Cartridge
    from llamacart_trainer.recipe.recipe import Task


@dataclass(frozen=True)
class Fitted:
    """A cartridge, what it cost, and α to measure it at."""

    cartridge: Cartridge
    seconds: float
    size: int
    alpha: float


def read_edits(path: Path) -> list[Fact]:
    """The records that can be said as facts, in their order; those that contradict others not.

    Raises:
        RecipeError: The file cannot be read.
    """
    edits: list[Fact] = []
    for _, record in read_lines(path, ("prompt", "subject")):
        fact = as_fact(record)
        if fact is None:
            continue
        try:
            check_facts([*edits, fact])
        except RecipeError:
            continue
        edits.append(fact)
    return edits


def as_fact(record: dict[str, Any]) -> Fact | None:
    """A record as a fact; None where its prompt does not hold its subject once."""
    subject, prompt = record["subject"], record["prompt"]
    if prompt.count(subject) != 1:
        return None
    asked = record["rephrase_prompt"]
    near = Neighbour(prompt=record["locality_prompt"], answer=record["locality_ground_truth"])
    return Fact(
        prompt=prompt.replace(subject, SLOT),
        subject=subject,
        object=record["target_new"],
        was=record["ground_truth"],
        paraphrases=(asked,) if subject in asked else (),
        neighbours=(near,),
    )


def write_recipe(folder: Path, edits: Sequence[Fact], settings: Iterable[str]) -> None:
    """A recipe folder of some edits, with lines `key = value` of TOML."""
    folder.mkdir(parents=True, exist_ok=True)
    head = ['name = "counterfact"', 'kind = "facts"', 'train = "facts.jsonl"']
    lines = [line.replace("=", " = ", 1) for line in settings]
    (folder / "recipe.toml").write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
    facts = [edit.model_dump_json(exclude_none=True) + "\n" for edit in edits]
    (folder / "facts.jsonl").write_text("".join(facts), encoding="utf-8")


def fit(task: Task, model: Model, path: Path, alpha: float, threads: int | None) -> Fitted:
    started = time.perf_counter()
    cartridge = train(task, model, n_threads=threads).cartridge
    seconds = time.perf_counter() - started
    return Fitted(cartridge, seconds, write_cartridge(cartridge, path), alpha)


def run(
    model: Model, folder: Path, edits: Sequence[Fact], options: argparse.Namespace
) -> dict[str, Any]:
    """Train and measure some edits; prints the table and returns its figures."""
    write_recipe(folder, edits, options.set)
    task = load_task(folder)
    alpha = task.recipe.default_alpha if options.alpha is None else options.alpha
    fitted = [fit(task, model, folder / "counterfact.gguf", alpha, options.threads)]
    for name in PENALTIES if options.paper else ():
        own = paper_task(task, name)
        path, strength = folder / f"{name}.gguf", own.recipe.default_alpha
        fitted.append(fit(own, model, path, strength, options.threads))
    points = sweep(
        model,
        [each.cartridge for each in fitted],
        [[each.alpha] for each in fitted],
        load_plan(task),
        n_threads=options.threads,
    )
    console = Console()
    console.print(terminal_table(points, f"{len(edits)} edits on {model.name}"))
    for each in fitted:
        share = each.size / Path(model.path).stat().st_size
        console.print(
            f"{each.cartridge.name}: fitted in {each.seconds:.1f} s, {each.size} bytes "
            f"({share:.2%} of the model), α {each.alpha:g}",
            highlight=False,
        )
    for point in points:
        console.print(f"{point.label}: measured in {point.scores.seconds:.1f} s", highlight=False)
    return {
        "edits": len(edits),
        "model": str(model.fingerprint),
        "points": [asdict(point) for point in points],
        "fits": [
            {"name": f.cartridge.name, "seconds": f.seconds, "bytes": f.size, "alpha": f.alpha}
            for f in fitted
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="file of records, or its folder")
    parser.add_argument("--model", default="demo", help="GGUF path, 'demo' or hf:…")
    parser.add_argument("--edits", type=int, nargs="+", default=[30], help="numbers of edits")
    parser.add_argument("--skip", type=int, default=0, help="records to pass over first")
    parser.add_argument("--set", nargs="*", default=[], help="lines of the recipe, as margin=4")
    parser.add_argument("--alpha", type=float, help="default: the recipe's")
    parser.add_argument("--paper", action="store_true", help="fit the paper's two modes too")
    parser.add_argument("--keep", type=Path, help="folder for recipes and cartridges")
    parser.add_argument("--threads", type=int, help="default: all processors")
    parser.add_argument("--json", type=Path, help="write all figures here too")
    options = parser.parse_args()
    files = sorted(options.data.glob("*.jsonl")) if options.data.is_dir() else [options.data]
    edits = [edit for file in files for edit in read_edits(file)][options.skip :]
    if max(options.edits) > len(edits):
        parser.error(f"--edits has value {max(options.edits)}; there are {len(edits)}")
    found = []
    with tempfile.TemporaryDirectory() as scratch, Model(options.model) as model:
        for count in options.edits:
            folder = (options.keep or Path(scratch)) / str(count)
            found.append(run(model, folder, edits[:count], options))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
