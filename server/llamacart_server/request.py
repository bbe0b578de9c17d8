"""What the HTTP layer hands to the engine, and what it gets back, token by token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from llamacart.sampling import SamplingParams

if TYPE_CHECKING:
    from llamacart.steering import Dose

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
        max_tokens: Most tokens to generate, at least 1; the engine lowers it to what is left
            of the context.
        doses: Cartridges that act; empty means unsteered.
        sampling: How tokens are chosen.
        ignore_eos: Go on past the end-of-generation token (for benchmarks).
    """

    prompt: tuple[int, ...]
    max_tokens: int
    doses: tuple[PlacedDose, ...] = ()
    sampling: SamplingParams = field(default_factory=SamplingParams)
    ignore_eos: bool = False


@dataclass(frozen=True)
class TokenEvent:
    """One generated token.

    Attributes:
        token: Its id; None only where the generation ended without one (end of generation).
        finish_reason: Set on the last event.
    """

    token: int | None
    finish_reason: FinishReason | None = None
