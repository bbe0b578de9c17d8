"""Rows for one step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llamacart.values.steering import Steering


@dataclass(frozen=True)
class Batch:
    """Rows for one decode: parallel lists of one entry a row.

    Attributes:
        tokens: Token ids.
        positions: Position of each row in its sequence.
        sequences: Sequence id of each row, below the context's `n_seq_max`.
        outputs: Whether logits are wanted after each row.
        also: For some rows, other sequences that begin with them as well. What several sequences
            begin with is computed once.
    """

    tokens: Sequence[int]
    positions: Sequence[int]
    sequences: Sequence[int]
    outputs: Sequence[bool]
    also: Mapping[int, Sequence[int]] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class RunBatch(Batch):
    """Rows for one step: a batch and what acts on each of its rows.

    Attributes:
        steerings: One a row. Rows that are steered alike should share the tuple itself: the
            hook recognises it by identity.
        observed: Whether the report shall tell each row's doses; None means no row's.
    """

    steerings: Sequence[Steering]
    observed: Sequence[bool] | None = None
