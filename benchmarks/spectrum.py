"""Singular values of W − prior against λ, beside cutting the rank: is a high λ a low rank?

The paper ties its "distillation" (a high λ) to spectral filtering, as LASER does by cutting ranks.
For some layers of a recipe's unsteered rows this fits ridge maps at many λ and, at the lowest λ, at
many ranks. Pairs are split: R² is on rows of every fifth pair, which no fit has seen.

Usage: spectrum.py [RECIPE] [--layers 4 9 14] [--model SPEC] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from harness import ROOT
from rich.console import Console
from rich.table import Table

from llamacart.llama.model import Model
from llamacart.passes.capture import capture
from llamacart_trainer.fitting.samples import SampleBuilder
from llamacart_trainer.recipe.recipe import load_task
from llamacart_trainer.solvers import (
    AffineMap,
    Prior,
    Problem,
    RidgePath,
    select_neurons,
    spectrum_path,
    truncated,
)
from llamacart_trainer.solvers.activations import ActivationRows
from llamacart_trainer.solvers.problem import from_gap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart_trainer.recipe.pairing import PairedRows

PENALTIES = (1.0, 10.0, 70.0, 100.0, 300.0, 1000.0, 1800.0, 10_000.0, 100_000.0)
RANKS = (1, 2, 4, 8, 16, 32)


def rows_of(model: Model, samples: Sequence[PairedRows], layer: int) -> tuple[np.ndarray, ...]:
    """Source and target rows [N, D] and the pair that each belongs to [N]."""
    sides = []
    for name in ("source", "target"):
        texts = [getattr(sample, name) for sample in samples]
        starts = np.cumsum([0, *map(len, texts)])
        kept = np.concatenate(
            [
                start + np.asarray(getattr(sample, f"{name}_rows"))
                for start, sample in zip(starts, samples, strict=False)
            ]
        )
        unique, place = np.unique(kept, return_inverse=True)
        sides.append(capture(model, texts, layers=[layer], rows=unique)[layer][place])
    groups = np.concatenate([[sample.group] * len(sample.source_rows) for sample in samples])
    return sides[0], sides[1], groups


def r_squared(x: np.ndarray, y: np.ndarray, neurons: np.ndarray, delta: np.ndarray) -> float:
    """Share of the targets' variance at S that x_S + delta x explains, means matched."""
    error = (y - x)[:, neurons] - x @ delta.T
    error -= error.mean(axis=0)
    spread = y[:, neurons] - y[:, neurons].mean(axis=0)
    return float(1 - (error**2).sum() / (spread**2).sum())


def describe(values: np.ndarray, share: float) -> dict[str, float]:
    """Largest singular value, participation ratio of their squares, and held-out R²."""
    squares = np.asarray(values, np.float64) ** 2
    total = squares.sum()
    return {
        "largest": float(np.sqrt(squares.max())),
        "effective rank": float(total**2 / (squares**2).sum()),
        "held-out R2": share,
    }


def examine(x: np.ndarray, y: np.ndarray, groups: np.ndarray, prior: Prior) -> list[dict[str, Any]]:
    """One record for each λ, then one for each rank at the lowest λ."""
    unseen = groups % 5 == 0
    rows = ActivationRows(x[~unseen], y[~unseen])
    neurons = select_neurons(rows, 0.03)
    problem = Problem(neurons, rows, rows)
    path = RidgePath.of(problem, prior)
    spectra = spectrum_path(problem, PENALTIES, prior, limit=len(neurons))
    out = []
    for penalty, values in zip(PENALTIES, spectra, strict=True):
        delta = from_gap(path.weights(penalty), neurons, prior)
        share = r_squared(x[unseen], y[unseen], neurons, delta)
        out.append({"cut": f"λ = {penalty:g}", **describe(values, share)})
    lowest = AffineMap(from_gap(path.weights(PENALTIES[0]), neurons, prior), np.zeros(len(neurons)))
    for rank in RANKS:
        cut = truncated(lowest, neurons, prior, rank, rows.mean_x)
        share = r_squared(x[unseen], y[unseen], neurons, cut.delta)
        values = spectra[0][:rank]
        out.append({"cut": f"rank {rank} at λ = {PENALTIES[0]:g}", **describe(values, share)})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", type=Path, nargs="?", default=ROOT / "cartridges/library/french")
    parser.add_argument("--layers", type=int, nargs="*", default=[4, 9, 14])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    task = load_task(options.recipe)
    console = Console()
    found = []
    with Model(options.model, batch_invariant=True) as model:
        samples = [s for s in SampleBuilder(task, model).build() if not s.neutral]
        for layer in options.layers:
            x, y, groups = rows_of(model, samples, layer)
            for prior in ("zero", "identity"):
                records = examine(x, y, groups, prior)
                found.append({"layer": layer, "prior": prior, "records": records})
                table = Table(*records[0], title=f"layer {layer}, prior {prior}")
                for record in records:
                    table.add_row(
                        *(f"{v:.3f}" if isinstance(v, float) else v for v in record.values())
                    )
                console.print(table)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
