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
    told: Sequence[Told],
    observed: Sequence[bool] | None,
) -> None:
    """Write faults, capped rows and doses into the kernel's arrays.

    Args:
        block: The control block.
        arrays: The arrays it points to.
        told: What the graphs of each device did.
        observed: Rows whose doses are wanted.
    """
    n_rows, n_layer = int(block[Field.N_ROWS]), int(block[Field.LAST_LAYER]) + 1
    limit = float(arrays[Field.DOSE_LIMIT][0])
    moved, size = np.zeros((n_layer, n_rows)), np.zeros((n_layer, n_rows))
    acted = np.zeros((n_layer, n_rows), bool)
    rows = [_batch_rows(own, arrays[Field.OUTPUT_ROW], n_layer) for own in told]
    for own, row in zip(told, rows, strict=True):
        np.add.at(moved, (own.layer, row), own.moved)
        np.add.at(size, (own.layer, row), own.size)
        acted[own.layer, row] = True
    fine = (moved <= _LARGEST) & (size <= _LARGEST)
    faulty = acted & ~fine
    if faulty.any():
        _note_faults(block, arrays, faulty, list(zip(told, rows, strict=True)))
    if np.isfinite(limit):
        capped = acted & fine & (moved > limit * limit * size)
        arrays[Field.CAPPED][:n_rows] += capped.sum(axis=0, dtype=np.int32)
        block[Field.N_CAPPED] += int(capped.sum())
    if observed is not None:
        layer, row = np.nonzero(acted & fine & np.asarray(observed, bool))
        with np.errstate(divide="ignore", invalid="ignore"):
            dose = np.sqrt(moved[layer, row] / size[layer, row])
        dose[size[layer, row] <= 0] = np.inf
        arrays[Field.DOSE][row, layer] = np.minimum(dose, limit)


def _batch_rows(
    told: Told, output_rows: NDArray[np.int32], n_layer: int
) -> NDArray[np.integer[Any]]:
    """The rows of the batch: the last layer's tensor holds those with outputs only."""
    last = told.layer == n_layer - 1
    rows = told.row.copy()
    rows[last] = output_rows[told.row[last]]
    return rows


def _note_faults(
    block: NDArray[np.int64],
    arrays: Mapping[Field, NDArray[Any]],
    faulty: NDArray[np.bool_],
    told: Sequence[tuple[Told, NDArray[np.integer[Any]]]],
) -> None:
    """Note the first layer at which a row went wrong, and the cartridge that moved it most."""
    for row in np.flatnonzero(faulty.any(axis=0)):
        if arrays[Field.FAULT_LAYER][row] >= 0:
            continue
        layer = int(faulty[:, row].argmax())
        moved, slots = (
            np.concatenate([getattr(o, name)[(o.layer == layer) & (r == row)] for o, r in told])
            for name in ("moved", "slot")
        )
        arrays[Field.FAULT_LAYER][row] = layer
        arrays[Field.FAULT_SLOT][row] = slots[moved.argmax()]  # NaN counts as the largest
        block[Field.N_FAULTS] += 1
