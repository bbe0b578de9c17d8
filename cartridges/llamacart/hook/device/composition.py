"""Which cartridges act on which rows of a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Run:
    """Rows of a tensor on which one cartridge acts.

    Attributes:
        slot: The cartridge's, as the kernel's table has it.
        rows: Ascending rows of the tensor.
    """

    slot: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Composition:
    """What acts on which row of a tensor; α is not part of it.

    Attributes:
        n_rows: Rows of the tensor.
        runs: In the order in which they write.
    """

    n_rows: int
    runs: tuple[Run, ...]

    @property
    def n_entries(self) -> int:
        """Rows of all runs."""
        return sum(len(run.rows) for run in self.runs)

    @property
    def shared(self) -> bool:
        """Whether some row is in two runs."""
        return len({row for run in self.runs for row in run.rows}) < self.n_entries


def compose(
    rows: Sequence[Iterable[tuple[int, float]]],
) -> tuple[Composition, NDArray[np.float32]]:
    """The composition of rows, and α of its entries, run after run."""
    acting: dict[int, list[tuple[int, float]]] = {}
    for row, entries in enumerate(rows):
        for slot, alpha in entries:
            acting.setdefault(slot, []).append((row, alpha))
    runs = tuple(Run(slot, tuple(row for row, _ in acting[slot])) for slot in sorted(acting))
    alphas = [alpha for slot in sorted(acting) for _, alpha in acting[slot]]
    return Composition(len(rows), runs), np.array(alphas, np.float32)
