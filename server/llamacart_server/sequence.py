"""The state of one generation between steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from llamacart.errors import InputError
from llamacart.steering import UNSTEERED, Steering

if TYPE_CHECKING:
    from llamacart.cartridge import Cartridge
    from llamacart_server.request import ApplyTo, GenerationRequest


class SequenceState(Enum):
    """Where a sequence stands."""

    WAITING = "waiting"
    """Queued: it has no slot and no KV cells."""
    PREFILL = "prefill"
    """It has a slot; rows of its prompt are still to be computed."""
    DECODING = "decoding"
    """One row a step: the token generated last."""
    FINISHED = "finished"
    """Slot and cells are free again."""


@dataclass(eq=False)
class Sequence:
    """One generation.

    Attributes:
        request: What was asked for.
        max_tokens: Most tokens to generate, as far as the context allows.
        tokens: The prompt, then what was generated.
        n_computed: Leading tokens that are in the KV cache.
        state: Changed by the scheduler and by `append`.
        slot: Sequence id in the runner while PREFILL or DECODING.
        prompt_steering: What acts on rows of prompt tokens.
        generated_steering: What acts on rows of generated tokens.
    """

    request: GenerationRequest
    max_tokens: int
    tokens: list[int] = field(init=False)
    n_computed: int = 0
    state: SequenceState = SequenceState.WAITING
    slot: int | None = None
    prompt_steering: Steering = field(init=False)
    generated_steering: Steering = field(init=False)

    def __post_init__(self) -> None:
        if not self.request.prompt:
            raise InputError("the prompt has no tokens", param="prompt")
        self.tokens = list(self.request.prompt)
        self.prompt_steering = self._steering("prompt")
        self.generated_steering = self._steering("generated")

    def _steering(self, rows: ApplyTo) -> Steering:
        doses = tuple(d.dose for d in self.request.doses if d.apply_to in ("all", rows))
        return doses or UNSTEERED

    @property
    def cartridges(self) -> list[Cartridge]:
        """The cartridge of each dose."""
        return [placed.dose.cartridge for placed in self.request.doses]

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt)

    @property
    def n_reserved(self) -> int:
        """KV cells set aside while it runs, so that it can always reach `max_tokens`."""
        return self.n_prompt + self.max_tokens

    @property
    def n_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.n_prompt

    @property
    def generated(self) -> list[int]:
        """The tokens generated so far."""
        return self.tokens[self.n_prompt :]

    @property
    def n_pending(self) -> int:
        """Tokens that are known and not yet computed."""
        return len(self.tokens) - self.n_computed

    def steering_at(self, position: int) -> Steering:
        """What acts on the row of the token at `position`.

        The last prompt token's row, which yields the first generated token, is a prompt row.
        """
        return self.prompt_steering if position < self.n_prompt else self.generated_steering

    def append(self, token: int) -> None:
        """Take a generated token, whose row is computed in the next step."""
        self.tokens.append(token)
        self.state = SequenceState.DECODING
