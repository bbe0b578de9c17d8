"""Limits that a scheduler keeps."""

from __future__ import annotations

from dataclasses import dataclass

from llamacart.errors import InputError

MAX_QUEUED = 256
"""Requests that may wait, where nothing else is said."""
MAX_QUEUED_TOKENS = 262_144
"""Prompt tokens that may wait, where nothing else is said."""


@dataclass(frozen=True)
class SchedulerConfig:
    """Limits of the scheduler.

    Attributes:
        n_ctx: KV cells in all.
        n_batch: Most rows in a step.
        n_sequences: Sequences that run at once.
        n_cached: Idle entries of the prefix cache, each in a slot of its own; 0 turns it off.
        host_cache_bytes: Host memory for entries that had to leave their slots.
        ordered: Whether the runner keeps the cells of each sequence in order.
        prefill_rows: Most prompt rows in a step in which others decode, which bounds how long
            a decoding sequence waits for its next token; None means a quarter of `n_batch`.
        max_queued: Requests that may wait.
        max_queued_tokens: Prompt tokens that may wait.
    """

    n_ctx: int
    n_batch: int
    n_sequences: int
    n_cached: int = 0
    host_cache_bytes: int = 0
    ordered: bool = False
    prefill_rows: int | None = None
    max_queued: int = MAX_QUEUED
    max_queued_tokens: int = MAX_QUEUED_TOKENS

    def __post_init__(self) -> None:
        if not 1 <= self.n_sequences <= self.n_batch:
            raise InputError(
                f"n_sequences has value {self.n_sequences}; 1 to n_batch = {self.n_batch} is needed"
            )
        if self.prefill_rows is not None and self.prefill_rows < 1:
            raise InputError(f"prefill_rows has value {self.prefill_rows}; at least 1 is needed")
        for name in ("n_cached", "host_cache_bytes"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} has value {getattr(self, name)}; at least 0 is needed")
