"""What an engine counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["finished", "cancelled", "failed"]
"""How a generation ended."""


@dataclass
class Counters:
    """What an engine has done since it was made.

    Attributes:
        steps: Batches given to the runner.
        finished: Generations that came to their end, or were ended by `Generation.finish`.
        cancelled: Generations that were cancelled.
        failed: Generations that ended with an error.
        prompt_tokens: Tokens of prompts that were read to their end.
        cached_tokens: Those of them that the prefix cache had.
        generated_tokens: Tokens sampled, the one that ends a generation not counted.
        capped_rows: Rows at which the dose limit made a delta smaller.
        cache_resets: Times that the KV cache was cleared because its state was not known.
        overruns: Generations that were ended because choosing a token took too long.
    """

    steps: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    capped_rows: int = 0
    cache_resets: int = 0
    overruns: int = 0

    def end(self, outcome: Outcome) -> None:
        """Count a generation that is over."""
        match outcome:
            case "finished":
                self.finished += 1
            case "cancelled":
                self.cancelled += 1
            case "failed":
                self.failed += 1


@dataclass(kw_only=True)
class EngineStats(Counters):
    """What an engine is doing, and what it has done since it was made (see `Counters`).

    Attributes:
        running: Sequences with a slot.
        queued: Sequences that wait for one.
        queued_tokens: Their prompt tokens.
        kv_used: KV cells in use, each counted once however many sequences share it.
        kv_cached: Those that only idle entries of the prefix cache hold.
        cached_entries: Idle entries in slots.
        host_bytes: Host memory taken by entries that had to leave their slots.
        device_bytes: Memory on devices that cartridges take.
        preempted: Times that a running sequence had to give way.
        waiting_cartridges: Names of the cartridges that act on queued sequences, ascending.
    """

    running: int
    queued: int
    queued_tokens: int
    kv_used: int
    kv_cached: int
    cached_entries: int
    host_bytes: int
    device_bytes: int
    preempted: int
    waiting_cartridges: tuple[str, ...]
