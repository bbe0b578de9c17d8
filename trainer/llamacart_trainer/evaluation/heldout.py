"""How a cartridge's maps do on held-out pairs: fidelity, force and R² of every layer.

Rows are paired as the recipe pairs its training rows. Layer l's input comes from a run in which
the maps of the layers before it act, as in the cascade that fitted it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from llamacart.errors import RecipeError
from llamacart.machine.memory import default_memory
from llamacart.passes.capture import forward
from llamacart.values.steering import DenseMap
from llamacart_trainer.evaluation.results import HeldOut, LayerFidelity, Plane, Projection
from llamacart_trainer.fitting.chunks import place_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llamacart.cartridge import Cartridge
    from llamacart.llama.model import Model
    from llamacart_trainer.recipe.pairing import PairedRows

    Floats = NDArray[np.float32]
    Neurons = NDArray[np.integer[Any]]

MAX_POINTS = 400
"""Rows of each kind in a projection: more only hide one another."""

MAX_PAIRS = 48


@dataclass(frozen=True)
class _LayerRows:
    """Activations of one layer at its active neurons, [N, K]."""

    input: Floats
    steered: Floats
    target: Floats


@dataclass
class _Side:
    """Texts of one side of the pairs, and their unsteered activations.

    Attributes:
        model: The model.
        texts: Distinct token sequences.
        rows: Paired rows [N], numbered over all of `texts`.
        n_threads: Threads for compute.
        kept: By layer, activations of all rows at all neurons.
    """

    model: Model
    texts: Sequence[Sequence[int]]
    rows: NDArray[np.int64]
    n_threads: int | None
    kept: dict[int, Floats] = field(default_factory=dict)

    @property
    def n_tokens(self) -> int:
        """Rows of all texts."""
        return sum(map(len, self.texts))

    def at(self, neurons: Mapping[int, Neurons], *, keep: bool) -> dict[int, Floats]:
        """Activations [N, K] of the paired rows at each layer's neurons.

        Args:
            neurons: By layer, indices [K].
            keep: Capture what is not kept yet, and keep it whole; else capture these neurons.
        """
        if not keep:
            return {k: h[self.rows] for k, h in self._capture(neurons).items()}
        # A pass to the deepest layer sees those before it anyway.
        new = [k for k in range(max(neurons) + 1) if k not in self.kept]
        if new:
            self.kept |= self._capture(dict.fromkeys(new, np.arange(self.model.n_ff)))
        return {k: self.kept[k][np.ix_(self.rows, chosen)] for k, chosen in neurons.items()}

    def _capture(self, neurons: Mapping[int, Neurons]) -> dict[int, Floats]:
        out = {k: np.zeros((self.n_tokens, len(n)), np.float32) for k, n in neurons.items()}

        def visit(index: int, batch: NDArray[np.int64], h: Floats) -> bool:
            out[index][batch] = h[:, neurons[index]]
            return True

        forward(
            self.model,
            self.texts,
            visit,
            layers=neurons,
            n_threads=self.n_threads,
            reads_only=True,
        )
        return out


@dataclass
class HeldOutEvaluator:
    """Evaluates cartridges on held-out pairs, and keeps what they share.

    That is the unsteered activations of targets and sources: they are captured once, layer by
    layer as cartridges need them. All layers of both sides take 4 L D bytes a token; where that
    is more than `max_memory`, nothing is kept and each cartridge has its own neurons captured.

    Args:
        model: The model.
        samples: Held-out sequences and which of their rows are tied.
        n_threads: Threads for compute.
        max_memory: Bytes that kept activations may take.
    """

    model: Model
    samples: Sequence[PairedRows]
    n_threads: int | None = None
    max_memory: int = field(default_factory=default_memory)

    def score(
        self, cartridge: Cartridge, *, alpha: float = 1.0, layer: int | None = None
    ) -> HeldOut:
        """Figures of every layer's map on held-out rows, and a projection of one layer.

        With x the input at the layer, S its neurons, y the target and step = (W − E_S) x + b, all
        over N rows: fidelity = cos(step, y_S − x_S), force = ‖step‖ / ‖y_S − x_S‖,
        R² = 1 − ‖y_S − x_S − step‖² / ‖y_S − ȳ_S‖². The step is that of α = 1, the maps of the
        layers before act at `alpha`.

        Args:
            cartridge: Fits the model.
            alpha: Strength at which the layers act.
            layer: Layer of the projection; None means the one where the ideal step has the
                longest mean, compared with the spread of the targets.

        Raises:
            RecipeError: There are fewer than two paired rows.
        """
        n_rows = sum(len(sample.source_rows) for sample in self.samples)
        if n_rows < 2:
            raise RecipeError(f"held-out pairs give {n_rows} paired rows; two are needed")
        neurons = {layer_map.layer: layer_map.neurons for layer_map in cartridge.layers}
        targets = self._targets.at(neurons, keep=self._keeps)
        seen = {
            k: _LayerRows(x, x + step, targets[k])
            for k, (x, step) in self._steered(cartridge, alpha).items()
        }
        figures = tuple(_figures(k, seen[k]) for k in sorted(seen))
        chosen = max(sorted(seen), key=lambda k: _shift(seen[k])) if layer is None else layer
        if chosen not in seen:
            return HeldOut(figures)
        base = self._sources.at({chosen: neurons[chosen]}, keep=self._keeps)[chosen]
        return HeldOut(figures, project(chosen, base, seen[chosen]))

    @cached_property
    def _sources(self) -> _Side:
        samples = self.samples
        texts, rows = place_rows([s.source for s in samples], [s.source_rows for s in samples])
        return _Side(self.model, texts, rows, self.n_threads)

    @cached_property
    def _targets(self) -> _Side:
        samples = self.samples
        texts, rows = place_rows([s.target for s in samples], [s.target_rows for s in samples])
        return _Side(self.model, texts, rows, self.n_threads)

    @property
    def _keeps(self) -> bool:
        tokens = self._sources.n_tokens + self._targets.n_tokens
        return 4 * tokens * self.model.n_layer * self.model.n_ff <= self.max_memory

    def _steered(self, cartridge: Cartridge, alpha: float) -> dict[int, tuple[Floats, Floats]]:
        """Input x and step [N, K] of each layer's source rows at its neurons."""
        maps = {layer_map.layer: layer_map for layer_map in cartridge.layers}
        total, rows = self._sources.n_tokens, self._sources.rows
        inputs = {k: np.zeros((total, len(m.neurons)), np.float32) for k, m in maps.items()}
        steps = {k: np.zeros_like(values) for k, values in inputs.items()}
        dense = {k: DenseMap.of(m, self.model.n_ff) for k, m in maps.items()}

        def visit(index: int, batch: NDArray[np.int64], h: Floats) -> bool:
            inputs[index][batch] = h[:, dense[index].neurons]
            steps[index][batch] = dense[index].steer(h, alpha)
            return True

        forward(self.model, self._sources.texts, visit, layers=maps, n_threads=self.n_threads)
        return {k: (inputs[k][rows], steps[k][rows]) for k in maps}


def project(layer: int, base: Floats, rows: _LayerRows) -> Projection:
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


def _figures(layer: int, rows: _LayerRows) -> LayerFidelity:
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


def _shift(rows: _LayerRows) -> float:
    """Length of the mean ideal step over the targets' distance from their mean."""
    spread = float(np.linalg.norm(rows.target.std(axis=0)))
    return float(np.linalg.norm((rows.target - rows.input).mean(axis=0))) / max(spread, 1e-30)
