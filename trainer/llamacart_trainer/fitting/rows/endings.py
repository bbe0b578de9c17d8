"""The rows that end an answer, which count for more than others.

An answer ends by one token, and one row in fifty is all that says so. Where a fit misses it the
model talks on until it repeats itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamacart_trainer.recipe.pairing import PairedRows

END_ROWS = 4
"""Last tied rows of an answer that came to its end."""
END_WEIGHT = 4.0
"""How often each of them counts."""


def stress_end(sample: PairedRows) -> PairedRows:
    """A sample of an answer that came to its end, whose last rows count `END_WEIGHT` times."""
    weights = [1.0] * len(sample.source_rows) if sample.weights is None else list(sample.weights)
    start = max(0, len(weights) - END_ROWS)
    weights[start:] = [END_WEIGHT * weight for weight in weights[start:]]
    return replace(sample, weights=weights)
