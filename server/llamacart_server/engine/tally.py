"""What is measured of one generation, added up over its steps."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import numpy as np

from llamacart_server.engine.request import GenerationReport

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart.values.logprobs import TokenLogprobs
    from llamacart.values.report import StepReport

logger = logging.getLogger(__name__)


class Tally:
    """Grows a `GenerationReport`.

    Attributes:
        cached_tokens: Prompt tokens that the prefix cache had.
        capped_rows: Rows at which the dose limit made a delta smaller.
        prompt_logprobs: Of prompt tokens, as far as they have been read.
        queue_seconds: From its making to its first step; None before that.
    """

    def __init__(self) -> None:
        self.cached_tokens = 0
        self.capped_rows = 0
        self.prompt_logprobs: tuple[TokenLogprobs, ...] = ()
        self.queue_seconds: float | None = None
        self._begun = time.monotonic()
        self._sums: NDArray[np.float64] | None = None
        self._counts: NDArray[np.int64] | None = None

    def begin(self) -> None:
        """Say that a step with its rows is about to run; only the first counts."""
        if self.queue_seconds is None:
            self.queue_seconds = time.monotonic() - self._begun

    def add(self, step: StepReport, rows: range) -> int:
        """Add rows of a step's batch; returns how many of them were capped."""
        if rows and step.doses is not None:
            self._add_doses(step.doses[rows.start : rows.stop])
        n_capped = sum(row in rows for row in step.capped)
        if n_capped and not self.capped_rows:
            logger.warning("the dose limit made the steering of a generation weaker")
        self.capped_rows += n_capped
        return n_capped

    def _add_doses(self, doses: NDArray[np.float32]) -> None:
        measured = ~np.isnan(doses)
        sums = np.where(measured, doses, 0).sum(axis=0, dtype=np.float64)
        counts = measured.sum(axis=0)
        self._sums = sums if self._sums is None else self._sums + sums
        self._counts = counts if self._counts is None else self._counts + counts

    def report(self, *, telemetry: bool) -> GenerationReport:
        """What is known so far; the dose of each layer only with `telemetry`."""
        dose, mean = None, None
        if self._sums is not None and self._counts is not None:
            means = np.full(len(self._sums), np.nan)
            np.divide(self._sums, self._counts, out=means, where=self._counts > 0)
            mean = float(np.nanmean(means)) if self._counts.any() else None
            dose = tuple(means.tolist()) if telemetry else None
        return GenerationReport(
            self.cached_tokens,
            dose,
            self.capped_rows,
            self.prompt_logprobs,
            self.queue_seconds,
            mean,
        )
