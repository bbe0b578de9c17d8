"""What rows of a KV cache were computed from, and how much two such histories share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llamacart.values.steering import SteeringKey


@dataclass(frozen=True, eq=False)
class Rows:
    """The history that rows 0..n−1 of a sequence depend on.

    Attributes:
        tokens: Token ids [n], int32.
        segments: Runs of rows with one steering key, as (position after the last, key) in order;
            the last ends at n. Empty where n = 0.
    """

    tokens: NDArray[np.int32]
    segments: tuple[tuple[int, SteeringKey], ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def common(self, other: Rows) -> int:
        """Leading rows whose tokens and steering keys both agree."""
        n = min(len(self), len(other))
        differ = self.tokens[:n] != other.tokens[:n]
        first = int(differ.argmax()) if n else 0
        n_tokens = first if n and differ[first] else n
        return min(n_tokens, _same_keys(self.segments, other.segments))

    def begins(self, other: Rows) -> bool:
        """Whether all of these rows are the first rows of `other`."""
        return self.common(other) == len(self)


def _same_keys(
    a: tuple[tuple[int, SteeringKey], ...], b: tuple[tuple[int, SteeringKey], ...]
) -> int:
    i = j = n = 0
    while i < len(a) and j < len(b) and a[i][1] == b[j][1]:
        n = min(a[i][0], b[j][0])
        i += a[i][0] == n
        j += b[j][0] == n
    return n
