"""What the engine needs of whatever runs the model; `llamacart.runner.LlamaRunner` has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart.cartridge import Cartridge
    from llamacart.runner import RunBatch
    from llamacart.sampling import SamplingParams


class TokenSampler(Protocol):
    """State of one generation's sampling, made by `Runner.sampler`."""

    def close(self) -> None:
        """Free what it holds; closing again does nothing."""
        ...


class Runner(Protocol):
    """Runs batches. One thread calls it, except for `sampler` and `check_tokens`."""

    @property
    def n_ctx(self) -> int:
        """KV cells, shared by all sequences."""
        ...

    @property
    def n_batch(self) -> int:
        """Most rows in one step."""
        ...

    @property
    def n_sequences(self) -> int:
        """Sequence ids are 0..n_sequences−1; as many rows of a step may want outputs."""
        ...

    def load(self, cartridge: Cartridge) -> None:
        """Make a cartridge resident; a second load of equal content does nothing."""
        ...

    def unload(self, cartridge: Cartridge) -> None:
        """Forget a cartridge; one that is not resident is ignored."""
        ...

    def run(self, batch: RunBatch) -> None:
        """Run one step; afterwards `sample` answers for rows with outputs."""
        ...

    def free(self, sequence: int) -> None:
        """Drop all KV cells of a sequence."""
        ...

    def sampler(self, params: SamplingParams) -> TokenSampler:
        """A sampler for one generation; raises `InputError` where it cannot be. Thread-safe."""
        ...

    def sample(self, sampler: Any, row: int) -> int:
        """The token after row `row` of the last step, chosen by one of this runner's samplers."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether `token` ends a generation."""
        ...

    def check_tokens(self, tokens: Sequence[int]) -> None:
        """Raise `InputError` unless every id is in the vocabulary. Thread-safe."""
        ...
