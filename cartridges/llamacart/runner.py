"""What a serving engine uses of llama.cpp: steered batches in, sampled tokens out."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

from llamacart.errors import EngineError, HostWorkError, InputError, LlamacartError
from llamacart.hook.device.probe import say_where_steered
from llamacart.hook.steering_hook import Place, SteeringHook
from llamacart.llama.closing import Closing
from llamacart.llama.context import Context
from llamacart.machine.processors import choose_threads
from llamacart.sampling.candidates import Candidates
from llamacart.sampling.logprobs import read_logprobs
from llamacart.sampling.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from llamacart.cartridge import Cartridge
    from llamacart.llama.model import Model
    from llamacart.values.batch import RunBatch
    from llamacart.values.logprobs import TokenLogprobs
    from llamacart.values.report import StepReport
    from llamacart.values.sampling import SamplingParams

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PICKS_PER_THREAD = 2
"""Fewer passes over the whole vocabulary are not worth waking a thread for."""


class LlamaRunner(Closing):
    """A model, one context with a KV cache shared by many sequences, and the steering hook.

    A sequence's rows lie in a slot, at positions 0, 1, 2 … without gaps. All methods belong to
    one thread, except `sampler` and `check_tokens`, which any may call.

    Args:
        model: Stays the caller's, who closes it after the runner.
        n_ctx: KV cells, shared by all slots.
        n_batch: Most rows in one step.
        n_sequences: Most sequences that run at once.
        n_cached: Slots beyond those, for what is kept for reuse. llama.cpp reserves n_vocab
            floats of output for each slot.
        n_threads: See `Context`.
        force: Accept cartridges made for other weights of the same shape.
        dose_limit: Most ‖Δ‖/‖h_S‖ that steering may reach in a row at a layer; None for any.
        place: Where rows in a device's memory are steered, see `SteeringHook`.
        token_seconds: Most seconds of processor time that one choice of a token, or one reading of
            log-probabilities, may take of the thread that does it; None for any. A choice that
            takes longer is not broken off, but it is that generation's last.

    Raises:
        InputError: More sequences than rows in a step, more slots or threads than llama.cpp can
            hold, or a dose limit that is none.
        EngineError: llama.cpp cannot make the context.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int = 4096,
        n_batch: int = 512,
        n_sequences: int = 16,
        n_cached: int = 0,
        n_threads: int | None = None,
        force: bool = False,
        dose_limit: float | None = None,
        place: Place = "auto",
        token_seconds: float | None = None,
    ) -> None:
        # llama.cpp lowers its own n_batch to n_ctx and aborts on a larger batch.
        self._n_batch = min(n_batch, n_ctx)
        self._n_sequences = n_sequences
        if n_sequences > self._n_batch:
            raise InputError(
                f"n_sequences has value {n_sequences}; a step of {self._n_batch} rows must hold "
                "one row of each"
            )
        self._n_slots = n_sequences + n_cached
        # llama.cpp's attention adds up a sequence's rows in the order of their cells, and puts new
        # rows into the first free ones. Where the result may not depend on who left before, cells
        # that are given up go to a sequence of their own, until `compact`.
        self._graveyard = self._n_slots if model.batch_invariant else None
        most_threads = choose_threads(n_threads)
        self._model = model
        if model.uses_device and place == "auto":
            say_where_steered(model)
        self._hook = SteeringHook(
            model,
            max_rows=self._n_batch,
            force=force,
            dose_limit=dose_limit,
            n_threads=most_threads,
            place=place,
        )
        self._context = Context(
            model,
            n_ctx=n_ctx,
            n_batch=self._n_batch,
            n_seq_max=self._n_slots + (self._graveyard is not None),
            n_outputs=n_sequences,
            n_threads=n_threads,
            hook=self._hook,
        )
        n_parts = max(1, min(most_threads, n_sequences // _PICKS_PER_THREAD))
        self._candidates = [Candidates(model.n_vocab) for _ in range(n_parts)]
        # What is compiled now is not counted against the first choice.
        self._candidates[0].warm_up()
        self._token_seconds = token_seconds
        self._pool = ThreadPoolExecutor(n_parts - 1, "sample") if n_parts > 1 else None

    # --- shape ------------------------------------------------------------------------------

    @property
    def n_ctx(self) -> int:
        """KV cells, shared by all slots."""
        return self._context.n_ctx

    @property
    def n_batch(self) -> int:
        """Most rows in one step."""
        return self._n_batch

    @property
    def n_sequences(self) -> int:
        """Most sequences that run at once: as many rows of a step may want outputs."""
        return self._n_sequences

    @property
    def n_slots(self) -> int:
        """Slots are 0..n_slots−1."""
        return self._n_slots

    @property
    def ordered(self) -> bool:
        """Whether each sequence's cells must lie in the order of its rows.

        If so, rows always go to the cells behind all that were used since the last `compact`,
        and cells that are given up stay in use until then.
        """
        return self._graveyard is not None

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

    @property
    def device_bytes(self) -> int:
        """Memory on devices that cartridges take, with the graphs by which they act."""
        device = self._hook.device
        return 0 if device is None else device.n_bytes

    # --- steps ------------------------------------------------------------------------------

    def run(self, batch: RunBatch) -> StepReport:
        """Run one step; afterwards `sample` answers for rows with outputs.

        Raises:
            EngineError: llama.cpp failed, or a cartridge is not loaded.
            ContextOverflowError: No free KV cells; nothing was added to the cache.
        """
        self._hook.set_rows(batch.steerings, batch.observed)
        try:
            self._context.decode(batch)
        except BaseException:
            self._hook.take_report()  # or the next step's rows would be said to be like these
            raise
        return self._hook.take_report()

    # --- slots ------------------------------------------------------------------------------

    def copy(self, source: int, target: int, n: int) -> bool:
        """Share the first `n` rows of a slot with another, which takes no cells.

        What `target` held before is dropped.

        Returns:
            False, with `target` empty, where `source` does not hold the rows any more.
        """
        self._drop(target)
        if self._context.holds(source, n):
            self._context.copy(source, target, n)
            return True
        return False

    def trim(self, slot: int, n: int) -> bool:
        """Keep the first `n` rows of a slot.

        Returns:
            False, with the slot empty, where it does not hold them any more.
        """
        held = self._context.holds(slot, n)
        self._drop(slot, n if held else 0)
        return held

    def free(self, slot: int) -> None:
        """Drop all rows of a slot."""
        self._drop(slot)

    def clear(self) -> None:
        """Drop all rows of all slots."""
        self._context.clear()

    def compact(self, slots: Sequence[int]) -> list[int]:
        """Move the rows of `slots` to the first cells, in that order, and drop all others.

        Slots that shared cells have their own afterwards. The rows of one slot after the other go
        to host memory and back, so that it takes the memory of the largest slot once, and the time
        of copying all rows out and in: for 8 192 cells of a 12B model, 400 kB each, at most 3.2 GB
        where one slot holds all.

        Returns:
            Slots that llama.cpp could not move; they are empty.
        """
        kept = set(slots)
        for slot in range(self._n_slots):
            if slot not in kept:
                self._context.remove(slot)
        if self._graveyard is not None:
            self._context.remove(self._graveyard)
        lost: list[int] = []
        while True:
            failed = [slot for slot in slots if not self._move(slot, kept - {slot})]
            lost += failed
            slots = [slot for slot in slots if slot not in failed]
            # A slot that is lost leaves cells behind that nobody has taken: once more.
            if not failed or not slots:
                return lost
            kept = set(slots)

    def _move(self, slot: int, others: set[int]) -> bool:
        """Put the rows of a slot into the first free cells."""
        if self._graveyard is None:
            return self._context.move(slot)
        # llama.cpp takes cells whose row lies behind the sliding window of their only holder.
        for other in others:
            if self._context.has_masked_rows(other):
                self._context.lend(other, self._graveyard)
        moved = self._context.move(slot)
        self._context.remove(self._graveyard)
        return moved

    def _drop(self, slot: int, start: int = 0) -> None:
        if self._graveyard is not None:
            self._context.lend(slot, self._graveyard, start)
        self._context.remove(slot, start)

    def save(self, slot: int) -> bytes:
        """A copy of a slot's rows in host memory.

        Where the model has sliding-window layers, it holds only what continuing at the slot's
        end needs, and can be trimmed by one row at most after `restore`.

        Raises:
            EngineError: llama.cpp failed.
        """
        return self._context.save(slot)

    def restore(self, slot: int, state: bytes) -> bool:
        """Put saved rows into a slot; what it held is dropped.

        Returns:
            False, with the slot empty, where llama.cpp finds no room.
        """
        return self._context.restore(slot, state)

    # --- tokens -----------------------------------------------------------------------------

    def sampler(self, params: SamplingParams) -> Sampler:
        """A sampler for one generation; the caller closes it.

        Raises:
            InputError: The parameters do not fit the vocabulary.
        """
        return Sampler(params, self._model)

    def sample(self, picks: Sequence[tuple[Sampler, int]]) -> list[int | LlamacartError]:
        """The tokens that samplers choose after rows of the last step.

        Args:
            picks: Pairs of a sampler, each given once, and a row with output.

        Returns:
            For each pair a token, or the error that kept it from being chosen.
        """
        # Other draws are done sooner than threads have passed Python's lock to and fro.
        n_wide = sum(sampler.is_wide for sampler, _ in picks)
        return self._over_rows(
            [row for _, row in picks],
            lambda i, logits, candidates: picks[i][0].choose(logits, candidates),
            n_wide,
        )

    def score(self, asks: Sequence[tuple[int, int, int]]) -> list[TokenLogprobs | LlamacartError]:
        """Log-probabilities after rows of the last step; see `llamacart.sampling.logprobs`.

        Args:
            asks: A row with output, the token that came after it, and how many of the most
                likely tokens are wanted.

        Returns:
            For each ask what it asks for, or the error that kept it from being read.
        """
        return self._over_rows(
            [row for row, _, _ in asks],
            lambda i, logits, candidates: read_logprobs(logits, *asks[i][1:], candidates),
            len(asks),
        )

    def _over_rows(
        self,
        rows: Sequence[int],
        work: Callable[[int, NDArray[np.float32], Candidates], T],
        n_slow: int,
    ) -> list[T | LlamacartError]:
        """Call `work` with the place and the logits of each of `rows`, `n_slow` of them slow."""
        # The first look at a row puts llama.cpp's outputs in order, so no thread may do it.
        jobs = list(enumerate(self._logits(row) for row in rows))
        n_parts = max(1, min(len(self._candidates), n_slow // _PICKS_PER_THREAD))
        parts = [jobs[i::n_parts] for i in range(n_parts)]
        others = [
            self._pool.submit(self._work_through, part, work, candidates)
            for part, candidates in zip(parts[1:], self._candidates[1:], strict=False)
            if self._pool is not None
        ]
        try:
            first = self._work_through(parts[0], work, self._candidates[0])
        finally:
            # Whoever called frees what the parts work on, so none may be left working.
            wait(others)
        done = [first, *(other.result() for other in others)]
        return [done[i % n_parts][i // n_parts] for i in range(len(rows))]

    def _work_through(
        self,
        jobs: Sequence[tuple[int, NDArray[np.float32] | LlamacartError]],
        work: Callable[[int, NDArray[np.float32], Candidates], T],
        candidates: Candidates,
    ) -> list[T | LlamacartError]:
        out: list[T | LlamacartError] = []
        for i, logits in jobs:
            if isinstance(logits, LlamacartError):
                out.append(logits)
                continue
            begun = time.thread_time()
            try:
                result: T | LlamacartError = work(i, logits, candidates)
            except LlamacartError as error:
                result = error
            except Exception as error:
                logger.exception("a row of logits cannot be worked on")
                result = EngineError(str(error) or type(error).__name__)
            seconds = time.thread_time() - begun
            if self._token_seconds is not None and seconds > self._token_seconds:
                result = HostWorkError(
                    f"choosing a token took {seconds:.2f} s of work for this request alone (its "
                    f"grammar, penalties, log-probabilities …); {self._token_seconds:g} s are "
                    "allowed"
                )
            out.append(result)
        return out

    def _logits(self, row: int) -> NDArray[np.float32] | LlamacartError:
        try:
            return self._context.logits(row)
        except LlamacartError as error:
            return error

    def is_end(self, token: int) -> bool:
        """Whether `token` ends a generation."""
        return self._model.is_end_of_generation(token)

    def check_tokens(self, tokens: Sequence[int]) -> None:
        """Raise `InputError` unless every id is in the vocabulary."""
        self._model.check_tokens(tokens)

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; none for a control token."""
        return self._model.token_bytes(token)

    # --- life -------------------------------------------------------------------------------

    def close(self) -> None:
        """Free the KV cache and the compute buffers; the model stays open."""
        if self._pool is not None:
            self._pool.shutdown()
        self._context.close()
