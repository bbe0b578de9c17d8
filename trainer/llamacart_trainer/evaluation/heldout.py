"""How a cartridge's maps do on held-out pairs: fidelity, force and R² of every layer.

Rows are paired as the recipe pairs its training rows. Layer l's input comes from a run in which
the maps of the layers before it act, as in the cascade that fitted it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llamacart.capture import capture, forward
from llamacart.errors import RecipeError
from llamacart_trainer.evaluation.results import HeldOut, LayerFidelity, Plane, Projection
from llamacart_trainer.samples import place_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart.cartridge import Cartridge, LayerMap
    from llamacart.model import Model
    from llamacart_trainer.pairing import PairedRows

    Floats = NDArray[np.float32]

MAX_POINTS = 400
"""Rows of each kind in a projection: more only hide one another."""

MAX_PAIRS = 48


@dataclass(frozen=True)
class _Rows:
    """Activations of one layer at its active neurons, [N, K]."""

    input: Floats
    steered: Floats
    target: Floats


def held_out(
    model: Model,
    cartridge: Cartridge,
    samples: Sequence[PairedRows],
    *,
    alpha: float = 1.0,
    layer: int | None = None,
    n_threads: int | None = None,
) -> HeldOut:
    """Figures of every layer's map on held-out rows, and a projection of one layer.

    With x the input at the layer, S its neurons, y the target and step = (W − E_S) x + b, all
    over N rows: fidelity = cos(step, y_S − x_S), force = ‖step‖ / ‖y_S − x_S‖,
    R² = 1 − ‖y_S − x_S − step‖² / ‖y_S − ȳ_S‖². The step is that of α = 1, the maps of the layers
    before act at `alpha`.

    Args:
        model: The model.
        cartridge: Fits the model.
        samples: Held-out sequences and which of their rows belong together.
        alpha: Strength at which the layers act.
        layer: Layer of the projection; None means the one where the ideal step has the longest
            mean, compared with the spread of the targets.
        n_threads: Threads for compute.

    Raises:
        RecipeError: There are fewer than two paired rows.
    """
    n_rows = sum(len(sample.source_rows) for sample in samples)
    if n_rows < 2:
        raise RecipeError(f"held-out pairs give {n_rows} paired rows; two are needed")
    maps = {layer_map.layer: layer_map for layer_map in cartridge.layers}
    sources, rows = place_rows([s.source for s in samples], [s.source_rows for s in samples])
    targets = _targets(model, samples, maps, n_threads)
    seen: dict[int, _Rows] = {}
    inputs = {
        k: np.zeros((sum(map(len, sources)), len(m.neurons)), np.float32) for k, m in maps.items()
    }
    steps = {k: np.zeros_like(values) for k, values in inputs.items()}
    dense = {k: m.dense_delta(model.n_ff) for k, m in maps.items()}

    def visit(index: int, batch: NDArray[np.int64], h: Floats) -> bool:
        neurons = maps[index].neurons
        step = h @ dense[index].T + maps[index].bias
        inputs[index][batch] = h[:, neurons]
        steps[index][batch] = step
        h[:, neurons] += np.float32(alpha) * step
        return True

    forward(model, sources, visit, layers=maps, n_threads=n_threads)
    for k in maps:
        x = inputs[k][rows]
        seen[k] = _Rows(x, x + steps[k][rows], targets[k])
    figures = tuple(_figures(k, seen[k]) for k in sorted(maps))
    chosen = max(sorted(maps), key=lambda k: _shift(seen[k])) if layer is None else layer
    if chosen not in maps:
        return HeldOut(figures)
    base = capture(model, sources, layers=[chosen], n_threads=n_threads)[chosen]
    return HeldOut(figures, project(chosen, base[rows][:, maps[chosen].neurons], seen[chosen]))


def project(layer: int, base: Floats, rows: _Rows) -> Projection:
    """The first two principal axes of base and target rows, and all four clouds on them."""
    both = np.concatenate([base, rows.target]).astype(np.float64)
    centre = both.mean(axis=0)
    _, lengths, axes = np.linalg.svd(both - centre, full_matrices=False)
    variance = lengths**2 / max(float((lengths**2).sum()), 1e-30)
    first = np.zeros((2, both.shape[1]))
    first[: min(2, len(axes))] = axes[:2]
    shares = [*map(float, variance[:2]), 0.0, 0.0]
    kept = np.unique(np.linspace(0, len(base) - 1, MAX_POINTS).astype(int))

    def plane(values: Floats) -> Plane:
        return tuple((float(a), float(b)) for a, b in (values[kept] - centre) @ first.T)

    return Projection(
        layer=layer,
        explained=(shares[0], shares[1]),
        base=plane(base),
        input=plane(rows.input),
        target=plane(rows.target),
        steered=plane(rows.steered),
    )


def _figures(layer: int, rows: _Rows) -> LayerFidelity:
    step, ideal = rows.steered - rows.input, rows.target - rows.input
    moved, wanted = float(np.linalg.norm(step)), float(np.linalg.norm(ideal))
    spread = float(((rows.target - rows.target.mean(axis=0)) ** 2).sum())
    missed = float(((rows.target - rows.steered) ** 2).sum())
    return LayerFidelity(
        layer=layer,
        kept=step.shape[1],
        rows=len(step),
        fidelity=float((step * ideal).sum()) / max(moved * wanted, 1e-30),
        force=moved / max(wanted, 1e-30),
        r2=1.0 - missed / max(spread, 1e-30),
        r2_before=1.0 - wanted**2 / max(spread, 1e-30),
    )


def _shift(rows: _Rows) -> float:
    """Length of the mean ideal step over the targets' distance from their mean."""
    spread = float(np.linalg.norm(rows.target.std(axis=0)))
    return float(np.linalg.norm((rows.target - rows.input).mean(axis=0))) / max(spread, 1e-30)


def _targets(
    model: Model,
    samples: Sequence[PairedRows],
    maps: dict[int, LayerMap],
    n_threads: int | None,
) -> dict[int, Floats]:
    """Target activations at each layer's neurons, in the order of the paired rows, [N, K]."""
    texts, rows = place_rows([s.target for s in samples], [s.target_rows for s in samples])
    total = sum(map(len, texts))
    kept = {k: np.zeros((total, len(m.neurons)), np.float32) for k, m in maps.items()}

    def keep(index: int, batch: NDArray[np.int64], h: Floats) -> bool:
        kept[index][batch] = h[:, maps[index].neurons]
        return True

    forward(model, texts, keep, layers=maps, n_threads=n_threads)
    return {k: values[rows] for k, values in kept.items()}
