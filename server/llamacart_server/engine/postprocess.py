"""What a step yields for each of its sequences: measurements, tokens, ends."""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from llamacart.errors import EngineError, HostWorkError, InputError, LlamacartError
from llamacart.values.steering import effective
from llamacart_server.engine.request import TokenEvent
from llamacart_server.engine.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamacart.values.logprobs import TokenLogprobs
    from llamacart.values.report import StepReport
    from llamacart_server.engine.generation import Generation
    from llamacart_server.engine.plan import Chunk, Plan
    from llamacart_server.engine.runner_interface import Runner, TokenSampler
    from llamacart_server.engine.sequence import Sequence
    from llamacart_server.engine.stats import Counters, Outcome

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Live:
    """What goes with a sequence until it is over."""

    sequence: Sequence
    generation: Generation
    sampler: TokenSampler
    tally: Tally = field(default_factory=Tally)


class End(NamedTuple):
    """A sequence that is over, how, and the last that its caller is to get."""

    sequence: Sequence
    outcome: Outcome
    last: TokenEvent | LlamacartError | None = None


class Postprocessor:
    """Accounts for the rows of a step, samples where they have outputs and delivers the tokens.

    Args:
        runner: Samples.
        counters: Grow.
    """

    def __init__(self, runner: Runner, counters: Counters) -> None:
        self._runner = runner
        self._counters = counters

    def process(self, plan: Plan, report: StepReport, lives: Mapping[Sequence, Live]) -> list[End]:
        """Go through a step that was run.

        Returns:
            Who is over; their last events have not been delivered yet.
        """
        ends: list[End] = []
        readings: list[_Reading] = []
        first = 0
        for chunk in plan.chunks:
            rows = range(first, first + chunk.n_rows)
            first = rows.stop
            live = lives[chunk.sequence]
            self._account(live, chunk, rows, report)
            fault = next((report.faults[row] for row in rows if row in report.faults), None)
            if fault is not None:
                ends.append(End(chunk.sequence, "failed", EngineError(str(fault))))
            elif live.generation.ended_by_caller is not None:
                ends.append(End(chunk.sequence, live.generation.ended_by_caller))
            elif chunk.output or chunk.scored:
                doses = _doses_of(chunk, rows, report)
                readings.append(_Reading(live, chunk, rows, doses=doses))
        self._sample([reading for reading in readings if reading.samples])
        self._score([reading for reading in readings if reading.asks])
        for reading in readings:
            end = self._advance(reading)
            if end is not None:
                ends.append(end)
        return ends

    def _account(self, live: Live, chunk: Chunk, rows: range, report: StepReport) -> None:
        sequence = chunk.sequence
        # Rows computed a second time, after a preemption, were measured the first time.
        new = rows[max(0, sequence.n_seen - chunk.start) :]
        self._counters.capped_rows += live.tally.add(report, new)
        sequence.n_computed = chunk.stop
        sequence.n_seen = max(sequence.n_seen, chunk.stop)

    def _sample(self, readings: list[_Reading]) -> None:
        if not readings:
            return
        try:
            tokens = self._runner.sample([(r.live.sampler, r.rows[-1]) for r in readings])
        except Exception as error:
            logger.exception("sampling failed")
            tokens = [engine_error(error) for _ in readings]
        for reading, token in zip(readings, tokens, strict=True):
            if isinstance(token, LlamacartError):
                reading.error = token
            else:
                reading.token = token

    def _score(self, readings: list[_Reading]) -> None:
        if not readings:
            return
        try:
            scores = iter(self._runner.score([ask for r in readings for ask in r.asks]))
        except Exception as error:
            logger.exception("log-probabilities cannot be read")
            for reading in readings:
                reading.error = engine_error(error)
            return
        for reading in readings:
            for score in itertools.islice(scores, len(reading.asks)):
                if isinstance(score, LlamacartError):
                    reading.error = score
                else:
                    reading.scores.append(score)

    def _advance(self, reading: _Reading) -> End | None:
        """Take what was read of one sequence and hand over its next token, unless the last."""
        live, sequence, token = reading.live, reading.live.sequence, reading.token
        if reading.error is not None:
            if isinstance(reading.error, HostWorkError):
                self._counters.overruns += 1
                logger.warning("a generation was ended: %s", reading.error.message)
            return End(sequence, "failed", _with_suspects(reading.error, sequence))
        n_scored = len(reading.chunk.scored)
        live.tally.prompt_logprobs += tuple(reading.scores[:n_scored])
        sequence.n_scored += n_scored
        logprobs = reading.scores[n_scored] if len(reading.scores) > n_scored else None
        doses = reading.doses
        if not reading.chunk.output:
            return None
        if not sequence.n_generated:
            self._count_prompt(live)
        if token is None:
            return End(sequence, "finished", TokenEvent(None, "length"))
        if self._runner.is_end(token) and not sequence.request.ignore_eos:
            return End(sequence, "finished", TokenEvent(None, "stop", logprobs))
        self._counters.generated_tokens += 1
        sequence.append(token)
        if sequence.n_generated == sequence.max_tokens:
            return End(sequence, "finished", TokenEvent(token, "length", logprobs, doses))
        live.generation.report = live.tally.report(telemetry=live.sequence.request.telemetry)
        live.generation.deliver(TokenEvent(token, None, logprobs, doses))
        return None

    def _count_prompt(self, live: Live) -> None:
        live.tally.cached_tokens = live.sequence.n_cached
        self._counters.prompt_tokens += live.sequence.n_prompt
        self._counters.cached_tokens += live.sequence.n_cached


def _doses_of(chunk: Chunk, rows: range, report: StepReport) -> tuple[float, ...] | None:
    """Of the row that a token is chosen from, where that is wanted and something acted."""
    wanted = chunk.output and chunk.sequence.request.token_doses
    if not wanted or report.doses is None:
        return None
    doses: list[float] = report.doses[rows[-1]].tolist()
    return None if all(map(math.isnan, doses)) else tuple(doses)


def _with_suspects(error: LlamacartError, sequence: Sequence) -> LlamacartError:
    """The error of a choice from logits, with what may have spoilt them."""
    acting = [
        f"{dose.cartridge.name!r} at alpha {dose.alpha:g}"
        for dose in effective(tuple(placed.dose for placed in sequence.request.doses))
    ]
    if not acting or isinstance(error, HostWorkError | InputError):
        return error
    return EngineError(f"{error.message}; what acted: {', '.join(acting)}")


@dataclass
class _Reading:
    """What is read from the outputs of one sequence's rows in a step.

    Attributes:
        live: Whose.
        chunk: Its rows.
        rows: Their places in the batch.
        token: What was sampled after the last row.
        scores: Log-probabilities of prompt tokens, then of the sampled one.
        error: What kept one of them from being read.
        doses: Of the last row, where the request wants those of its tokens.
    """

    live: Live
    chunk: Chunk
    rows: range
    token: int | None = None
    scores: list[TokenLogprobs] = field(default_factory=list)
    error: LlamacartError | None = None
    doses: tuple[float, ...] | None = None

    @property
    def samples(self) -> bool:
        """Whether a token is wanted: not where only the prompt is scored."""
        return self.chunk.output and self.live.sequence.max_tokens > 0

    @property
    def asks(self) -> list[tuple[int, int, int]]:
        """For `Runner.score`; complete once the token has been sampled."""
        chunk, sequence = self.chunk, self.live.sequence
        n_top = sequence.request.logprobs
        asks = [
            (self.rows[place - chunk.start], sequence.tokens[place + 1], n_top or 0)
            for place in chunk.scored
        ]
        if n_top is not None and self.token is not None:
            asks.append((self.rows[-1], self.token, n_top))
        return asks


def engine_error(error: BaseException) -> EngineError:
    """What a generation ends with where something else than itself failed."""
    return EngineError(str(error) or type(error).__name__)
