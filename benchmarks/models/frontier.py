"""Bytes of a cartridge against what it does, by keys of its recipe.

Trains a recipe once for each setting (a file that is there is not made again), evaluates all of the
cartridges in one run, at one α, on the recipe's validation prompts, so that its test prompts stay
unseen, and prints what each takes, also of the model's bytes, and the ranks of its factors.

Usage: frontier.py FOLDER 'rank="full"' 'rank=16' 'rank=8; storage="q5_0"' …
       [--recipe cartridges/library/french] [--model demo] [--alpha 1] [--prompts 40]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from llamacart.file.reader import read_cartridge
from llamacart.llama.resolve import resolve_model
from llamacart.matrix import FactoredMatrix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamacart.cartridge import Cartridge

ROOT = Path(__file__).parents[2]
FIGURES = {
    "behaviour": "behaviour",
    "nll": "NLL",
    "distinct": "distinct-2",
    "kl_prompted": "KL to prompted",
    "ended": "ends",
    "kl": "KL",
}


def with_keys(recipe: str, keys: Mapping[str, str]) -> str:
    """A recipe's text with keys of its first table set.

    Args:
        recipe: TOML.
        keys: Values, as TOML writes them.
    """
    first, mark, rest = recipe.partition("\n[")
    for key, value in keys.items():
        lines = first.splitlines()
        own = [i for i, line in enumerate(lines) if line.partition("=")[0].strip() == key]
        lines = [line for i, line in enumerate(lines) if i not in own]
        first = "\n".join([*lines, f"{key} = {value}"])
    return f"{first}\n{mark}{rest}"


def parse(setting: str) -> dict[str, str]:
    """Keys and values of `key=value; key=value`.

    Raises:
        ValueError: A part has no `=`.
    """
    parts = [part.partition("=") for part in setting.split(";") if part.strip()]
    if not all(mark for _, mark, _ in parts):
        raise ValueError(f"setting {setting!r} is not of the form 'key=value; key=value'")
    return {key.strip(): value.strip() for key, _, value in parts}


def label(setting: str) -> str:
    """A name for files."""
    return re.sub(r"[^a-z0-9.]+", "-", setting.lower()).strip("-") or "as-it-is"


def ranks(cartridge: Cartridge) -> str:
    """Least, mean and largest rank of its factors; empty where all maps are whole."""
    found = [m.delta.rank for m in cartridge.layers if isinstance(m.delta, FactoredMatrix)]
    if not found:
        return ""
    return f"{min(found)} / {sum(found) / len(found):.1f} / {max(found)}"


def train(options: argparse.Namespace, setting: str) -> Path:
    """The cartridge of a setting, made unless it is there."""
    folder: Path = options.folder
    target = folder / f"{label(setting)}.gguf"
    if not target.exists():
        recipe = folder / f"recipe-{label(setting)}"
        shutil.rmtree(recipe, ignore_errors=True)
        shutil.copytree(options.recipe, recipe)
        file = recipe / "recipe.toml"
        file.write_text(with_keys(file.read_text(), parse(setting)))
        run("train", recipe, "--model", options.model, "-o", target)
    return target


def evaluate(options: argparse.Namespace, files: list[Path]) -> list[dict[str, Any]]:
    """The scores of each cartridge, in order, behind those of the model alone."""
    recipe = options.folder / "recipe-validation"
    shutil.rmtree(recipe, ignore_errors=True)
    shutil.copytree(options.recipe, recipe)
    file = recipe / "recipe.toml"
    text = file.read_text()
    name = re.search(r'^validation = "(.*)"$', text, re.MULTILINE)
    if name is None:
        raise ValueError(f"recipe {str(options.recipe)!r} has no validation prompts")
    file.write_text(text.replace(name[0], ""))
    shutil.move(recipe / name[1], recipe / "prompts.jsonl")
    found = options.folder / "figures.json"
    run(
        "eval", *files, "--recipe", recipe, "--model", options.model, "--alphas", options.alpha,
        "--prompts", options.prompts, "--json", found,
    )  # fmt: skip
    points = json.loads(found.read_text())["points"]
    return [point["scores"] for point in points if point["kind"] in ("unsteered", "cartridge")]


def run(*arguments: object) -> None:
    """A command of llamacart's."""
    command = [sys.executable, "-m", "llamacart", *map(str, arguments)]
    subprocess.run(command, check=True)  # noqa: S603


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("settings", nargs="+", metavar="SETTING")
    parser.add_argument("--recipe", type=Path, default=ROOT / "cartridges/library/french")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--alpha", default="1")
    parser.add_argument("--prompts", type=int, default=40)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    files = [train(options, setting) for setting in options.settings]
    scores = evaluate(options, files)
    whole = resolve_model(options.model).stat().st_size
    shown = [name for name in FIGURES if any(own.get(name) for own in scores)]
    table = Table("setting", "K", "MB", "% of the model", "ranks", *map(FIGURES.get, shown))
    rows = [("unsteered", [""] * 4)]
    rows += [(s, _sizes(file, whole)) for s, file in zip(options.settings, files, strict=True)]
    for (name, sizes), own in zip(rows, scores, strict=True):
        table.add_row(name, *sizes, *(_shown(own.get(figure)) for figure in shown))
    Console(width=160).print(table)


def _sizes(file: Path, whole: int) -> list[str]:
    """K, megabytes, share of the model's, and the ranks of the factors."""
    cartridge, size = read_cartridge(file), file.stat().st_size
    share = f"{100 * size / whole:.2f}"
    return [str(cartridge.n_active), f"{size / 1e6:.2f}", share, ranks(cartridge)]


def _shown(figure: Mapping[str, Any] | None) -> str:
    """A mean with its interval."""
    if figure is None:
        return ""
    value, low, high = (figure[name] for name in ("value", "low", "high"))
    return f"{value:.2f}" if low is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
