"""Which rows of an answer a prompt acts on, so that those count for more.

Most tokens of an answer are as likely without the prompt. Where they are not, a fit should be
close: half of the distance to the prompted model stands in a tenth of the rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from llamacart.passes.forecasts import KEPT_BYTES, apart, forecasts, most_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart_trainer.recipe.pairing import PairedRows

FLOOR = 0.1
"""Of the mean: what a row counts on which a prompt does not act."""


def emphasise(
    model: Model,
    samples: Sequence[PairedRows],
    exponent: float,
    *,
    n_threads: int | None = None,
) -> list[PairedRows]:
    """Samples whose tied rows count by how far the model's expectations after them are apart.

    A row counts (0.1 + KL / mean KL)^p, with KL(behind the target's text ‖ behind the source's)
    of the next token, over the mean of all rows. What is neutral stays as it is.

    Args:
        model: The model.
        samples: Those that are not neutral tie the same tokens in two texts, rows ascending.
        exponent: p; with 0 all rows count once, and nothing is computed.
        n_threads: Threads for compute.
    """
    if not exponent:
        return list(samples)
    tied = [n for n, s in enumerate(samples) if not s.neutral and len(s.source_rows)]
    if not tied:
        return list(samples)
    divergences: list[NDArray[np.float64]] = []
    for part in _parts(model, [samples[n] for n in tied]):
        behind = forecasts(
            model,
            [sample.target for sample in part],
            [sample.target_rows for sample in part],
            n_threads=n_threads,
        )
        divergences += apart(
            model,
            [sample.source for sample in part],
            [sample.source_rows for sample in part],
            behind,
            n_threads=n_threads,
        ).divergences
    weights = row_weights(np.concatenate(divergences), exponent)
    ends = np.cumsum([len(own) for own in divergences])[:-1]
    out = list(samples)
    for n, own in zip(tied, np.split(weights, ends), strict=True):
        out[n] = replace(samples[n], weights=own.tolist())
    return out


def row_weights(divergences: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """How much rows [n] count, 1 in the mean; once each where no two texts differ anywhere."""
    mean = divergences.mean()
    if not mean > 0:
        return np.ones(len(divergences))
    weights = (FLOOR + np.maximum(divergences, 0) / mean) ** exponent
    return np.asarray(weights / weights.mean())


def _parts(model: Model, samples: Sequence[PairedRows]) -> Iterator[list[PairedRows]]:
    """Samples in groups whose expectations may be kept together; a larger one is alone."""
    most = most_rows(model, KEPT_BYTES)
    part: list[PairedRows] = []
    for sample in samples:
        if part and sum(len(s.source_rows) for s in (*part, sample)) > most:
            yield part
            part = []
        part.append(sample)
    yield part
