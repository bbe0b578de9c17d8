"""What a step yields for each of its sequences: measurements, tokens, ends."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from llamacart.errors import EngineError, LlamacartError
from llamacart.steering import effective
from llamacart_server.request import TokenEvent
from llamacart_server.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamacart.report import StepReport
    from llamacart_server.engine_stats import Counters
    from llamacart_server.generation import Generation
    from llamacart_server.plan import Chunk, Plan
    from llamacart_server.runner import Runner, TokenSampler
    from llamacart_server.sequence import Sequence

logger = logging.getLogger(__name__)

Outcome = Literal["finished", "cancelled", "failed"]


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
        picks: list[tuple[Live, int]] = []
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
            elif chunk.output:
                picks.append((live, rows[-1]))
        for (live, _), token in zip(picks, self._sample(picks), strict=True):
            end = self._advance(live, token)
            if end is not None:
                ends.append(end)
        return ends

    def _account(self, live: Live, chunk: Chunk, rows: range, report: StepReport) -> None:
        sequence = chunk.sequence
        # Rows computed a second time, after a preemption, were measured the first time.
        new = rows[max(0, sequence.n_seen - chunk.start) :]
        telemetry = sequence.request.telemetry
        self._counters.capped_rows += live.tally.add(report, new, telemetry=telemetry)
        sequence.n_computed = chunk.stop
        sequence.n_seen = max(sequence.n_seen, chunk.stop)

    def _sample(self, picks: list[tuple[Live, int]]) -> list[int | LlamacartError]:
        if not picks:
            return []
        try:
            return self._runner.sample([(live.sampler, row) for live, row in picks])
        except Exception as error:
            logger.exception("sampling failed")
            return [engine_error(error) for _ in picks]

    def _advance(self, live: Live, token: int | LlamacartError) -> End | None:
        """Hand over the next token of one sequence, unless it is the last."""
        sequence = live.sequence
        if isinstance(token, LlamacartError):
            return End(sequence, "failed", _with_suspects(token, sequence))
        if not sequence.n_generated:
            self._count_prompt(live)
        if self._runner.is_end(token) and not sequence.request.ignore_eos:
            return End(sequence, "finished", TokenEvent(None, "stop"))
        self._counters.generated_tokens += 1
        sequence.append(token)
        if sequence.n_generated == sequence.max_tokens:
            return End(sequence, "finished", TokenEvent(token, "length"))
        live.generation.report = live.tally.report()
        live.generation.deliver(TokenEvent(token))
        return None

    def _count_prompt(self, live: Live) -> None:
        live.tally.cached_tokens = live.sequence.n_cached
        self._counters.prompt_tokens += live.sequence.n_prompt
        self._counters.cached_tokens += live.sequence.n_cached


def _with_suspects(error: LlamacartError, sequence: Sequence) -> LlamacartError:
    """The error of a choice from logits, with what may have spoilt them."""
    acting = [
        f"{dose.cartridge.name!r} at alpha {dose.alpha:g}"
        for dose in effective(tuple(placed.dose for placed in sequence.request.doses))
    ]
    if not acting:
        return error
    return EngineError(f"{error.message}; what acted: {', '.join(acting)}")


def engine_error(error: Exception) -> EngineError:
    """What a generation ends with where something else than itself failed."""
    return EngineError(str(error) or type(error).__name__)
