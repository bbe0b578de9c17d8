"""What two runs expect after the same tokens: a model behind a prompt, and steered without it.

The texts of the two runs differ in what stands before; rows are tied one to one. Axes: R rows in
all, V vocabulary. A kept row takes 2 V bytes (0.5 MB for Gemma), so that whoever asks chooses how
many rows there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import InputError
from llamacart.passes.scoring import below_the_largest, divergence, log_sum_exp, visit_logits
from llamacart.values.steering import UNSTEERED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart.passes.control_vector import ControlDose
    from llamacart.passes.scoring import LogitsVisitor
    from llamacart.values.steering import Steering


KEPT_BYTES = 256 * 2**20
"""What the forecasts that are compared at the same time should take."""


def most_rows(model: Model, n_bytes: int) -> int:
    """Rows whose forecasts take no more than some bytes; one at least."""
    return max(1, n_bytes // (2 * model.n_vocab))


@dataclass(frozen=True)
class Forecasts:
    """What an unsteered model expects after chosen rows of texts.

    Attributes:
        counts: Rows of each text.
        logits: float16 [R, V], each row less its largest, texts and their rows in order.
    """

    counts: tuple[int, ...]
    logits: NDArray[np.float16]


@dataclass(frozen=True)
class Apart:
    """How far another run is from the forecasts, an array [rows of the text] for each text.

    Attributes:
        divergences: KL(forecast ‖ this) in nats.
        agreements: 1 where both think the same token the likeliest, else 0.
    """

    divergences: tuple[NDArray[np.float64], ...]
    agreements: tuple[NDArray[np.float64], ...]


def forecasts(
    model: Model,
    sequences: Sequence[Sequence[int]],
    rows: Sequence[Sequence[int]],
    *,
    n_threads: int | None = None,
) -> Forecasts:
    """Keep what the unsteered model expects after `rows` of each text: Σ rows of 2 V bytes.

    Args:
        model: The model.
        sequences: Token ids of the texts.
        rows: For each text its rows, ascending; a text may have none.
        n_threads: Threads for compute.
    """
    counts = tuple(map(len, rows))
    kept = np.zeros((sum(counts), model.n_vocab), np.float16)
    places = _places(rows)

    def keep(s: int, row: int, logits: NDArray[np.float32]) -> None:
        kept[places[s][row]] = below_the_largest(logits)

    _visit(model, sequences, rows, keep, UNSTEERED, None, n_threads)
    return Forecasts(counts, kept)


def apart(
    model: Model,
    sequences: Sequence[Sequence[int]],
    rows: Sequence[Sequence[int]],
    against: Forecasts,
    *,
    steering: Steering = UNSTEERED,
    control: ControlDose | None = None,
    n_threads: int | None = None,
) -> Apart:
    """How far the model is from forecasts, at the rows that are tied to theirs.

    Args:
        model: The model.
        sequences: Token ids of the texts.
        rows: For each text its rows, ascending, as many as the forecasts have there.
        against: Made by `forecasts`.
        steering: What acts on every row.
        control: A control vector that acts on every row beside it.
        n_threads: Threads for compute.

    Raises:
        InputError: There are other numbers of rows.
        OutOfRangeError: A cartridge made activations leave their range.
    """
    if tuple(map(len, rows)) != against.counts:
        raise InputError("the forecasts have other numbers of rows than these texts")
    places = _places(rows)
    divergences = np.zeros(sum(against.counts))
    agreements = np.zeros(sum(against.counts))

    def look(s: int, row: int, logits: NDArray[np.float32]) -> None:
        place = places[s][row]
        base = against.logits[place]
        divergences[place] = divergence(base, logits, log_sum_exp(logits))
        # In float16 several may share the largest: any of them is the likeliest.
        agreements[place] = base[logits.argmax()] == base.max()

    _visit(model, sequences, rows, look, steering, control, n_threads)
    ends = np.cumsum(against.counts)[:-1]
    return Apart(tuple(np.split(divergences, ends)), tuple(np.split(agreements, ends)))


def _places(rows: Sequence[Sequence[int]]) -> list[dict[int, int]]:
    """For each text from its row to the row of the matrix."""
    starts = np.cumsum([0, *map(len, rows)])
    return [
        {row: int(start) + n for n, row in enumerate(own)}
        for start, own in zip(starts, rows, strict=False)
    ]


def _visit(
    model: Model,
    sequences: Sequence[Sequence[int]],
    rows: Sequence[Sequence[int]],
    visitor: LogitsVisitor,
    steering: Steering,
    control: ControlDose | None,
    n_threads: int | None,
) -> None:
    """Show the logits after the rows; what follows the last of them is not run."""
    chosen = [s for s, own in enumerate(rows) if len(own)]
    visit_logits(
        model,
        [sequences[s][: rows[s][-1] + 1] for s in chosen],
        [rows[s][0] for s in chosen],
        lambda s, row, logits: visitor(chosen[s], row, logits),
        only=[frozenset(rows[s]) for s in chosen],
        steering=steering,
        control=control,
        n_threads=n_threads,
    )
