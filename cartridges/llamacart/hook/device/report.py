"""Says of rows that were steered on a device what the compiled kernel says of those on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llamacart.hook.control import OUT_OF_RANGE, Field

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llamacart.hook.device.plan import Told

_LARGEST = OUT_OF_RANGE**2


def note(
    block: NDArray[np.int64],
    arrays: Mapping[Field, NDArray[Any]],
    told: Mapping[int, Sequence[Told]],
    observed: Sequence[bool] | None,
) -> None:
    """Write faults, capped rows and doses into the kernel's arrays.

    Args:
        block: The control block.
        arrays: The arrays it points to.
        told: What each layer's graph did.
        observed: Rows whose doses are wanted.
    """
    n_rows, n_layer = int(block[Field.N_ROWS]), int(block[Field.LAST_LAYER]) + 1
    limit = float(arrays[Field.DOSE_LIMIT][0])
    for layer in sorted(told):
        moved, size = np.zeros(n_rows), np.zeros(n_rows)
        largest, slot = np.full(n_rows, -1.0), np.full(n_rows, -1, np.int64)
        for own in told[layer]:
            rows = arrays[Field.OUTPUT_ROW][own.rows] if layer == n_layer - 1 else own.rows
            moved[rows] += own.moved
            size[rows] += own.size
            # NaN counts as the largest, and stays it.
            larger = ~(own.moved <= largest[rows]) & ~np.isnan(largest[rows])
            slot[rows[larger]] = own.slot
            largest[rows[larger]] = own.moved[larger]
        acted = slot >= 0
        fine = (moved <= _LARGEST) & (size <= _LARGEST)
        for row in np.flatnonzero(acted & ~fine):
            if arrays[Field.FAULT_LAYER][row] < 0:
                arrays[Field.FAULT_LAYER][row] = layer
                arrays[Field.FAULT_SLOT][row] = slot[row]
                block[Field.N_FAULTS] += 1
        if np.isfinite(limit):
            capped = acted & fine & (moved > limit * limit * size)
            arrays[Field.CAPPED][:n_rows][capped] += 1
            block[Field.N_CAPPED] += int(capped.sum())
        if observed is not None:
            seen = np.flatnonzero(acted & fine & np.asarray(observed, bool))
            with np.errstate(divide="ignore", invalid="ignore"):
                dose = np.sqrt(moved[seen] / size[seen])
            dose[size[seen] <= 0] = np.inf
            arrays[Field.DOSE][seen, layer] = np.minimum(dose, limit)
