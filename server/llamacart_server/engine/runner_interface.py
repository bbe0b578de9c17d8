"""What the engine needs of whatever runs the model; `llamacart.runner.LlamaRunner` has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart.cartridge import Cartridge
    from llamacart.errors import LlamacartError
    from llamacart.values.batch import RunBatch
    from llamacart.values.logprobs import TokenLogprobs
    from llamacart.values.report import StepReport
    from llamacart.values.sampling import SamplingParams


class TokenSampler(Protocol):
    """State of one generation's sampling, made by `Runner.sampler`."""

    def close(self) -> None:
        """Free what it holds; closing again does nothing."""
        ...


class Runner(Protocol):
    """Runs batches. One thread calls it, except for `sampler` and `check_tokens`.

    Slots are llama.cpp's sequence ids; the rows of one lie at positions 0, 1, 2 … without gaps.
    """

    @property
    def n_ctx(self) -> int:
        """KV cells, shared by all slots."""
        ...

    @property
    def n_batch(self) -> int:
        """Most rows in one step."""
        ...

    @property
    def n_sequences(self) -> int:
        """Most sequences that run at once: as many rows of a step may want outputs."""
        ...

    @property
    def n_slots(self) -> int:
        """Slots are 0..n_slots−1; those beyond `n_sequences` are for the prefix cache."""
        ...

    @property
    def ordered(self) -> bool:
        """Whether the cells of each slot must lie in the order of its rows.

        If so, rows always go to the cells behind all that were used since the last `compact`,
        and cells that are given up stay in use until then.
        """
        ...

    @property
    def device_bytes(self) -> int:
        """Memory on devices that cartridges take. Thread-safe."""
        ...

    def load(self, cartridge: Cartridge) -> None:
        """Make a cartridge resident; a second load of equal content does nothing."""
        ...

    def unload(self, cartridge: Cartridge) -> None:
        """Forget a cartridge; one that is not resident is ignored."""
        ...

    def run(self, batch: RunBatch) -> StepReport:
        """Run one step; afterwards `sample` answers for rows with outputs."""
        ...

    def copy(self, source: int, target: int, n: int) -> bool:
        """Share the first `n` rows of a slot with an empty one; no cells are used up.

        Returns:
            Whether it was done; false, and `target` empty, where `source` no longer holds them.
        """
        ...

    def trim(self, slot: int, n: int) -> bool:
        """Keep the first `n` rows; false, and the slot empty, where they are not all there."""
        ...

    def free(self, slot: int) -> None:
        """Drop all rows of a slot."""
        ...

    def clear(self) -> None:
        """Drop all rows of all slots, whatever state they are in."""
        ...

    def compact(self, slots: Sequence[int]) -> list[int]:
        """Move the rows of `slots` to the first cells, each to its own, and drop all others.

        Returns:
            Slots whose rows were lost; they are empty.
        """
        ...

    def save(self, slot: int) -> bytes:
        """A copy of a slot's rows in host memory."""
        ...

    def restore(self, slot: int, state: bytes) -> bool:
        """Put saved rows into an empty slot; false, and the slot empty, where it cannot be."""
        ...

    def sampler(self, params: SamplingParams) -> TokenSampler:
        """A sampler for one generation; raises `InputError` where it cannot be. Thread-safe."""
        ...

    def sample(self, picks: Sequence[tuple[Any, int]]) -> list[int | LlamacartError]:
        """The tokens that samplers of this runner choose after rows of the last step.

        Args:
            picks: Pairs of a sampler and a batch row with output.

        Returns:
            For each pair a token, or the error that kept it from being chosen.
        """
        ...

    def score(self, asks: Sequence[tuple[int, int, int]]) -> list[TokenLogprobs | LlamacartError]:
        """Log-probabilities after rows of the last step.

        Args:
            asks: A batch row with output, the token that came after it, and how many of the
                most likely tokens are wanted.

        Returns:
            For each ask what it asks for, or the error that kept it from being read.
        """
        ...

    def is_end(self, token: int) -> bool:
        """Whether `token` ends a generation."""
        ...

    def check_tokens(self, tokens: Sequence[int]) -> None:
        """Raise `InputError` unless every id is in the vocabulary. Thread-safe."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; none for a control token. Thread-safe."""
        ...
