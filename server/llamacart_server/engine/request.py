"""What the HTTP layer hands to the engine, and what it gets back, token by token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from llamacart.values.sampling import SamplingParams

if TYPE_CHECKING:
    from llamacart.values.logprobs import TokenLogprobs
    from llamacart.values.steering import Dose

ApplyTo = Literal["all", "prompt", "generated"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class PlacedDose:
    """One cartridge at one strength, on the rows it is meant for."""

    dose: Dose
    apply_to: ApplyTo = "all"


@dataclass(frozen=True)
class GenerationRequest:
    """One sequence to generate.

    Attributes:
        prompt: Token ids, at least one.
        max_tokens: Most tokens to generate; the engine lowers it to what is left of the
            context. At least 1, or 0 where `prompt_logprobs` is all that is wanted.
        doses: Cartridges that act; empty means unsteered.
        sampling: How tokens are chosen.
        ignore_eos: Go on past the end-of-generation token (for benchmarks).
        telemetry: Measure what the cartridges do, for `GenerationReport.dose`.
        token_doses: With `telemetry`, give each token the doses of its row: `TokenEvent.doses`.
        sample_dose: Measure it at the last row of the prompt and the first after it, for
            `GenerationReport.mean_dose`.
        logprobs: Report each generated token's log-probability, and this many of the most
            likely tokens beside it; None means not to.
        prompt_logprobs: Report those of the prompt's tokens too, with as many beside each.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    doses: tuple[PlacedDose, ...] = ()
    sampling: SamplingParams = field(default_factory=SamplingParams)
    ignore_eos: bool = False
    telemetry: bool = False
    token_doses: bool = False
    sample_dose: bool = False
    logprobs: int | None = None
    prompt_logprobs: bool = False


@dataclass(frozen=True)
class TokenEvent:
    """One generated token.

    Attributes:
        token: Its id; None only where the generation ended without one (end of generation).
        finish_reason: Set on the last event.
        logprobs: Its log-probability, where the request asked for it; also that of the token
            that ended the generation.
        doses: Relative size ‖Δ‖/‖h_S‖ of what was added at the row that it was chosen from, one a
            layer, NaN where nothing acted; None where nothing did or the request did not ask.
    """

    token: int | None
    finish_reason: FinishReason | None = None
    logprobs: TokenLogprobs | None = None
    doses: tuple[float, ...] | None = None


@dataclass(frozen=True)
class GenerationReport:
    """What is known of a generation beside its tokens; grows while it runs.

    Attributes:
        cached_tokens: Prompt tokens that the prefix cache already had; known before the first
            token is delivered.
        dose: Relative size ‖Δ‖/‖h_S‖ of what was added, one a layer, averaged over the rows
            computed for it, NaN where nothing acts; None unless the request asked for telemetry
            and something was measured.
        capped_rows: Rows at which the dose limit made a delta smaller.
        prompt_logprobs: Of each prompt token but the first, where the request asked for them;
            all are known before the first token is delivered.
        queue_seconds: From its arrival to its first step; None before that.
        mean_dose: As `dose`, over all layers and the rows that were measured; None if none was.
    """

    cached_tokens: int = 0
    dose: tuple[float, ...] | None = None
    capped_rows: int = 0
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    queue_seconds: float | None = None
    mean_dose: float | None = None
