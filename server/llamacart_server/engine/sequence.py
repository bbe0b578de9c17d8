"""The state of one generation between steps."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import InputError
from llamacart.values.mentions import RowSteering
from llamacart.values.steering import UNSTEERED, Steering, SteeringKey, key_of
from llamacart_server.engine.kv.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamacart.cartridge import Cartridge
    from llamacart_server.engine.request import ApplyTo, GenerationRequest


class SequenceState(Enum):
    """Where a sequence stands."""

    WAITING = "waiting"
    """Queued: it has no slot and no KV cells."""
    PREFILL = "prefill"
    """It has a slot; rows of its prompt, or all rows since it was preempted, are to be computed."""
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
        token_bytes: The bytes of a token.
        tokens: The prompt, then what was generated.
        n_computed: Leading tokens that are in the KV cache.
        n_seen: Leading tokens whose rows were computed for it before, if not in this slot.
        n_cached: Prompt tokens that the prefix cache had when it was last admitted.
        n_scored: Leading rows whose logits have been read for the prompt's log-probabilities.
        arrival: Its place in the order of arrival, set by the scheduler.
        counted: Whether it counts against the caps of the queue.
        n_resets: Times that its rows were lost with all others.
        state: Changed by the scheduler and by `append`.
        slot: Sequence id in the runner while PREFILL or DECODING.
        prompt_steering: What acts on rows of prompt tokens, those apart on which it waits.
        generated_steering: What acts on rows of generated tokens, likewise.
        prompt_key: Key of `prompt_steering`.
        generated_key: Key of `generated_steering`.
    """

    request: GenerationRequest
    max_tokens: int
    token_bytes: Callable[[int], bytes]
    tokens: array[int] = field(init=False)
    n_computed: int = 0
    n_seen: int = 0
    n_cached: int = 0
    n_scored: int = 0
    arrival: int = -1
    counted: bool = False
    n_resets: int = 0
    state: SequenceState = SequenceState.WAITING
    slot: int | None = None
    prompt_steering: Steering = field(init=False)
    generated_steering: Steering = field(init=False)
    prompt_key: SteeringKey = field(init=False)
    generated_key: SteeringKey = field(init=False)
    _on_prompt: RowSteering = field(init=False, repr=False)
    _on_generated: RowSteering = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.request.prompt:
            raise InputError("the prompt has no tokens", param="prompt")
        self.tokens = array("i", self.request.prompt)
        self.prompt_steering = self._steering("prompt")
        self.generated_steering = self._steering("generated")
        self.prompt_key = key_of(self.prompt_steering)
        self.generated_key = key_of(self.generated_steering)
        self._on_prompt = RowSteering(self.prompt_steering, self.token_bytes)
        self._on_generated = RowSteering(self.generated_steering, self.token_bytes)

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
    def n_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.n_prompt

    @property
    def n_pending(self) -> int:
        """Tokens that are known and not yet computed."""
        return len(self.tokens) - self.n_computed

    @property
    def n_to_score(self) -> int:
        """Rows whose logits are still to be read; each tells of the prompt token after it."""
        return self.n_prompt - 1 - self.n_scored if self.request.prompt_logprobs else 0

    @property
    def n_reusable(self) -> int:
        """Leading rows that need not be computed for it, if they exist already."""
        return self.n_scored if self.n_to_score else len(self.tokens) - 1

    def scored_in(self, start: int, stop: int) -> range:
        """Those of rows start..stop−1 whose logits are to be read."""
        if not self.n_to_score:
            return range(0)
        return range(max(start, self.n_scored), min(stop, self.n_prompt - 1))

    def rows_with(self, n_outputs: int) -> int:
        """Most of the next rows of which `n_outputs` ≥ 1 at most have outputs."""
        # Its last row has an output too, for the next token.
        if self.n_to_score < n_outputs:
            return self.n_pending
        return self.n_scored - self.n_computed + n_outputs

    def steering_at(self, position: int) -> Steering:
        """What acts on the row of the token at `position`.

        The last prompt token's row, which yields the first generated token, is a prompt row.
        """
        acting = self._on_prompt if position < self.n_prompt else self._on_generated
        return acting.at(self.tokens, position)

    def measures(self, position: int) -> bool:
        """Whether the dose of the row at `position` is to be measured; no row's is twice."""
        if position < self.n_seen:
            return False
        is_sample = position in (self.n_prompt - 1, self.n_prompt)
        return self.request.telemetry or (self.request.sample_dose and is_sample)

    def rows(self, n: int) -> Rows:
        """What rows 0..n−1 are computed from."""
        segments: tuple[tuple[int, SteeringKey], ...] = ((min(n, self.n_prompt), self.prompt_key),)
        if n > self.n_prompt:
            segments += ((n, self.generated_key),)
        return Rows(np.array(self.tokens[:n], np.int32), segments if n else ())

    def append(self, token: int) -> None:
        """Take a generated token, whose row is computed in the next step."""
        self.tokens.append(token)
        self.state = SequenceState.DECODING
