"""What steering did to the rows of one step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llamacart.errors import OutOfRangeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Fault:
    """Where a row's activations or deltas left the range of what a model computes with.

    Attributes:
        layer: The layer it was seen at.
        cartridge: Name of the cartridge that acted there.
    """

    layer: int
    cartridge: str

    def __str__(self) -> str:
        return (
            f"cartridge {self.cartridge!r} met or made activations out of range at layer "
            f"{self.layer}"
        )


@dataclass(frozen=True)
class StepReport:
    """What one step has to say beside its logits.

    Attributes:
        faults: By batch row; such a row was not steered at that layer, and what follows from it
            is worthless.
        doses: Relative size ‖Δ‖/‖h_S‖ of what each row got at each layer, float32 [T, L], NaN
            where nothing acted or nothing was observed; None where no row was observed.
        capped: By batch row, the number of layers at which the dose limit made the delta smaller.
    """

    faults: Mapping[int, Fault] = field(default_factory=dict)
    doses: NDArray[np.float32] | None = None
    capped: Mapping[int, int] = field(default_factory=dict)

    def check(self) -> None:
        """Raise `OutOfRangeError` where a row has a fault."""
        for fault in self.faults.values():
            raise OutOfRangeError(str(fault))


NOTHING_TO_REPORT = StepReport()
