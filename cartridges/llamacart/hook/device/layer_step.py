"""The nodes of one layer's step: what `steer_rows` of the compiled kernel does, on a device.

For each run of rows with one cartridge, with X [T, D] its rows of h:

    Δ = α (X deltaᵀ + b)          for all runs, from h as it was
    Δ ← Δ min(1, limit ‖h_S‖/‖Δ‖)  where there is a dose limit, by row over all its cartridges
    h_S ← clamp(h_S + Δ)           one run after the other

‖Δ‖² and ‖h_S‖² of each row of a run are left in the memory for statistics. Nothing on the device
can see a row that left the range of numbers and zero it, as the kernel on the host does. The clamp
keeps such a row finite, so that no NaN reaches the KV cache; the statistics tell of it after the
step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacart.hook.control import OUT_OF_RANGE
from llamacart.hook.device.graph import F32, WORD
from llamacart.hook.device.residents import FEW

if TYPE_CHECKING:
    from llamacart.hook.device.graph import Node, Nodes
    from llamacart.hook.device.residents import LayerNodes

_TINY = 1e-30  # so that no row that nothing moved divides by zero


@dataclass(frozen=True)
class LayerRun:
    """Rows of a tensor on which one cartridge acts.

    Attributes:
        layer: What the cartridge does here.
        first: The first row, where the rows follow each other; else None.
        n_rows: T.
        indices: The rows [1, T].
        alpha: α of each row [T, 1].
        statistics: Byte offsets of ‖Δ‖² [T] and ‖h_S‖² [T] in the layer's statistics.
    """

    layer: LayerNodes
    first: int | None
    n_rows: int
    indices: Node
    alpha: Node
    statistics: tuple[int, int]


@dataclass(frozen=True)
class Limit:
    """A dose limit.

    Attributes:
        value: Most ‖Δ‖/‖h_S‖ of a row.
        zeros: [T, 1] zeros for all rows of the tensor, to add up what several runs do to a row;
            None where no row has two.
    """

    value: float
    zeros: Node | None


class LayerStep:
    """Builds the nodes of a step.

    The second home is the site's tensor's, the third that of the layer's statistics.

    Args:
        graph: No nodes yet.
        width: D.
        n_rows: Rows of the site's tensor.
    """

    def __init__(self, graph: Nodes, width: int, n_rows: int) -> None:
        self._graph, self._width = graph, width
        self._h = graph.patched(F32, width, n_rows)
        self._statistics = graph.home()

    def build(self, runs: list[LayerRun], *, shared: bool, limit: Limit | None) -> None:
        """Add what the runs do.

        Args:
            runs: In the order in which they write.
            shared: Whether some row is in two of them.
            limit: The dose limit, if any.
        """
        rows = [self._rows(run) for run in runs]
        deltas = [self._delta(run, x) for run, x in zip(runs, rows, strict=True)]
        gathered = [self._gather(run, x) for run, x in zip(runs, rows, strict=True)]
        places = [(run.statistics, run.n_rows) for run in runs]
        moved = [
            self._square_sum(delta, at[0], n) for delta, (at, n) in zip(deltas, places, strict=True)
        ]
        size = [
            self._square_sum(current, at[1], n)
            for (current, _), (at, n) in zip(gathered, places, strict=True)
        ]
        if limit is not None:
            shares = self._shares(runs, moved, size, limit)
            pairs = zip(deltas, shares, strict=True)
            deltas = [self._graph.compute("mul", delta, share) for delta, share in pairs]
        for i, run in enumerate(runs):
            if shared and i > 0:  # a run before this one may have written to its rows
                rows[i] = self._rows(run)
                gathered[i] = self._gather(run, rows[i])
            self._scatter(run, rows[i], gathered[i], deltas[i])

    def _rows(self, run: LayerRun) -> Node:
        """X [T, D]: the rows of h themselves, or copies where they do not follow each other."""
        if run.first is None:
            return self._graph.compute("get_rows", self._h, run.indices)
        stride = self._width * WORD
        return self._graph.view(
            self._h, "view_2d", self._width, run.n_rows, stride, offset=run.first * stride
        )

    def _delta(self, run: LayerRun, x: Node) -> Node:
        """α (X deltaᵀ + b) [T, K]."""
        layer, compute = run.layer, self._graph.compute
        if layer.delta is None:
            shift = compute("repeat_4d", layer.bias, layer.n_active, run.n_rows, 1, 1)
        else:
            shift = compute("mul_mat", layer.delta, x)
            if layer.left is not None:
                shift = compute("mul_mat", layer.left, shift)
            shift = compute("add", shift, layer.bias)
        return compute("mul", shift, run.alpha)

    def _gather(self, run: LayerRun, x: Node) -> tuple[Node, Node]:
        """h_S [T, K], and the rows as `_scatter` writes to them."""
        graph, layer, n_rows = self._graph, run.layer, run.n_rows
        if n_rows <= FEW:
            by_row = graph.view(x, "view_3d", 1, self._width, n_rows, WORD, self._width * WORD)
            listed = graph.view(
                layer.repeated, "view_2d", layer.n_active, n_rows, layer.n_active * WORD
            )
            picked = graph.compute("get_rows", by_row, listed)
            return graph.view(picked, "reshape_2d", layer.n_active, n_rows), by_row
        # A row of the turned tensor is a neuron, so that whole rows are picked and written.
        turned = graph.compute("cont", graph.view(x, "transpose"))
        picked = graph.compute("get_rows", turned, layer.neurons)
        return graph.compute("cont", graph.view(picked, "transpose")), turned

    def _scatter(self, run: LayerRun, x: Node, gathered: tuple[Node, Node], delta: Node) -> None:
        graph, layer, n_rows = self._graph, run.layer, run.n_rows
        current, target = gathered
        value = graph.compute("add", current, delta)
        value = graph.compute("clamp", value, -OUT_OF_RANGE, OUT_OF_RANGE)
        if n_rows <= FEW:
            value = graph.view(value, "reshape_3d", 1, layer.n_active, n_rows)
            graph.write("set_rows", target, value, layer.neurons)
        else:
            value = graph.compute("cont", graph.view(value, "transpose"))
            turned = graph.write("set_rows", target, value, layer.neurons)
            graph.write("cpy", x, graph.view(turned, "transpose"))
        if run.first is None:
            graph.write("set_rows", self._h, x, run.indices)

    def _square_sum(self, values: Node, offset: int, n_rows: int) -> Node:
        """‖values‖² of each row [T, 1], left among the statistics."""
        if n_rows == 1:  # one operation: a device waits longer for each than it computes
            return self._graph.compute_into(self._statistics, offset, "mul_mat", values, values)
        square = self._graph.compute("sqr", values)
        return self._graph.compute_into(self._statistics, offset, "sum_rows", square)

    def _shares(
        self, runs: list[LayerRun], moved: list[Node], size: list[Node], limit: Limit
    ) -> list[Node]:
        """What is left of each row's Δ, [T, 1] for each run."""
        compute = self._graph.compute
        if limit.zeros is not None:
            moved = self._by_row(runs, moved, limit.zeros)
            size = self._by_row(runs, size, limit.zeros)
        shares = []
        for delta, of in zip(moved, size, strict=True):
            ratio = compute("div", of, compute("scale_bias", delta, 1.0, _TINY))
            ratio = compute("scale_bias", ratio, limit.value**2, 0.0)
            shares.append(compute("sqrt", compute("clamp", ratio, 0.0, 1.0)))
        return shares

    def _by_row(self, runs: list[LayerRun], parts: list[Node], zeros: Node) -> list[Node]:
        """For each run the sums, over all runs, of what its rows have."""
        graph = self._graph
        total = graph.compute("scale_bias", zeros, 1.0, 0.0)
        for run, part in zip(runs, parts, strict=True):
            so_far = graph.compute("get_rows", total, run.indices)
            total = graph.write("set_rows", total, graph.compute("add", so_far, part), run.indices)
        return [graph.compute("get_rows", total, run.indices) for run in runs]
