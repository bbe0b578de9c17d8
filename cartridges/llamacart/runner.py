"""What a serving engine uses of llama.cpp: steered batches in, sampled tokens out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacart.closing import Closing
from llamacart.context import Batch, Context
from llamacart.errors import InputError
from llamacart.hook import SteeringHook
from llamacart.sampling import Sampler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart.cartridge import Cartridge
    from llamacart.model import Model
    from llamacart.sampling import SamplingParams
    from llamacart.steering import Steering


@dataclass(frozen=True)
class RunBatch(Batch):
    """Rows for one step: a batch and what acts on each of its rows.

    Attributes:
        steerings: One a row. Rows that are steered alike should share the tuple itself: the
            hook recognises it by identity.
    """

    steerings: Sequence[Steering]


class LlamaRunner(Closing):
    """A model, one context with a KV cache shared by many sequences, and the steering hook.

    All methods belong to one thread, except `sampler` and `check_tokens`, which any may call.

    Args:
        model: Stays the caller's, who closes it after the runner.
        n_ctx: KV cells, shared by all sequences.
        n_batch: Most rows in one step.
        n_sequences: Sequences that can be in the cache at once.
        n_threads: Threads for compute; None means all processors of the process.
        force: Accept cartridges made for other weights of the same shape.

    Raises:
        InputError: More sequences than rows in a step, or than llama.cpp can hold.
        EngineError: llama.cpp cannot make the context.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int = 4096,
        n_batch: int = 512,
        n_sequences: int = 16,
        n_threads: int | None = None,
        force: bool = False,
    ) -> None:
        # llama.cpp lowers its own n_batch to n_ctx and aborts on a larger batch.
        self._n_batch = min(n_batch, n_ctx)
        self._n_sequences = n_sequences
        if n_sequences > self._n_batch:
            raise InputError(
                f"n_sequences has value {n_sequences}; a step of {self._n_batch} rows must hold "
                "one row of each"
            )
        self._model = model
        self._hook = SteeringHook(model, max_rows=self._n_batch, force=force)
        self._context = Context(
            model,
            n_ctx=n_ctx,
            n_batch=self._n_batch,
            n_seq_max=n_sequences,
            n_outputs=n_sequences,
            n_threads=n_threads,
            hook=self._hook,
        )

    # --- shape ------------------------------------------------------------------------------

    @property
    def n_ctx(self) -> int:
        """KV cells, shared by all sequences."""
        return self._context.n_ctx

    @property
    def n_batch(self) -> int:
        """Most rows in one step."""
        return self._n_batch

    @property
    def n_sequences(self) -> int:
        """Sequence ids are 0..n_sequences−1; as many rows of a step may want outputs."""
        return self._n_sequences

    # --- cartridges -------------------------------------------------------------------------

    def load(self, cartridge: Cartridge) -> None:
        """Make a cartridge resident; a second load of equal content does nothing.

        Raises:
            CartridgeMismatchError: Made for another model; nothing has changed.
        """
        self._hook.load(cartridge)

    def unload(self, cartridge: Cartridge) -> None:
        """Forget a cartridge; one that is not resident is ignored."""
        self._hook.unload(cartridge)

    # --- steps ------------------------------------------------------------------------------

    def run(self, batch: RunBatch) -> None:
        """Run one step; afterwards `sample` answers for rows with outputs.

        Raises:
            EngineError: llama.cpp failed, or a cartridge is not loaded.
            ContextOverflowError: No free KV cells; nothing was added to the cache.
        """
        self._hook.set_rows(batch.steerings)
        self._context.decode(batch)

    def free(self, sequence: int) -> None:
        """Drop all KV cells of a sequence."""
        self._context.remove(sequence)

    # --- tokens -----------------------------------------------------------------------------

    def sampler(self, params: SamplingParams) -> Sampler:
        """A sampler for one generation; the caller closes it.

        Raises:
            InputError: The parameters do not fit the vocabulary.
        """
        return Sampler(params, self._model)

    def sample(self, sampler: Sampler, row: int) -> int:
        """The token that `sampler` chooses after row `row` of the last step."""
        return sampler.sample(self._context, row)

    def is_end(self, token: int) -> bool:
        """Whether `token` ends a generation."""
        return self._model.is_end_of_generation(token)

    def check_tokens(self, tokens: Sequence[int]) -> None:
        """Raise `InputError` unless every id is in the vocabulary."""
        self._model.check_tokens(tokens)

    # --- life -------------------------------------------------------------------------------

    def close(self) -> None:
        """Free the KV cache and the compute buffers; the model stays open."""
        self._context.close()
