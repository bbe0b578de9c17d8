"""Teacher-forced scoring of given tokens under any steering, many sequences a decode.

Axes: T tokens of a sequence, V vocabulary, R rows whose logits are wanted. A row of logits is
4 V bytes (1 MB for Gemma), so that rows are looked at one by one and never gathered, except
those of a `Reference`, which are kept at 2 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import InputError
from llamacart.hook.steering_hook import SteeringHook
from llamacart.llama.context import MAX_SEQUENCES, Context
from llamacart.passes.batching import (
    ROWS_PER_DECODE,
    as_batch,
    fillings,
    rows_beside,
    rows_of,
    shared_beginning,
    slices,
)
from llamacart.passes.control_vector import apply_control
from llamacart.passes.watching import computed
from llamacart.values.mentions import RowSteering
from llamacart.values.steering import UNSTEERED, effective

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart.passes.batching import Row
    from llamacart.passes.control_vector import Control
    from llamacart.values.steering import Steering

    LogitsVisitor = Callable[[int, int, NDArray[np.float32]], None]
    """(sequence, row in it, logits [V], valid during the call)."""

OUTPUTS_PER_DECODE = 128

LEAST_SHARED = 8
"""First rows that texts have in common and that are worth a decode of their own."""


@dataclass(frozen=True)
class Reference:
    """Logits of one steering of the model on fixed texts, for `score_texts`.

    Attributes:
        sequences: Token ids of the texts.
        logits: float16 [R, V], each row less its largest; R = Σ (T − 1), all rows but the last of
            each text in order. Rounding adds about 1e-6 nats to a KL.
    """

    sequences: tuple[tuple[int, ...], ...]
    logits: NDArray[np.float16]


@dataclass(frozen=True)
class TextScores:
    """What a model thinks of given texts, one array [T − 1] for each.

    Attributes:
        log_likelihoods: Natural log of the probability of tokens 1 to T − 1.
        divergences: KL(reference ‖ this) in nats of the distributions of those tokens; None
            without a reference.
    """

    log_likelihoods: tuple[NDArray[np.float64], ...]
    divergences: tuple[NDArray[np.float64], ...] | None = None


def visit_logits(
    model: Model,
    sequences: Sequence[Sequence[int]],
    first_rows: Sequence[int],
    visitor: LogitsVisitor,
    *,
    only: Sequence[Container[int]] | None = None,
    steering: Steering = UNSTEERED,
    control: Control | None = None,
    n_threads: int | None = None,
) -> None:
    """Run sequences and show the logits after row `first_rows[s]` of each and all later rows.

    Args:
        model: The model.
        sequences: Token ids, each a sequence of its own from position 0.
        first_rows: For each sequence its first row whose logits are wanted; its length for none.
        visitor: Called in order of sequences and rows.
        only: For each sequence those of its rows from the first on that are wanted; None for all.
        steering: What acts on every row.
        control: A control vector or a LoRA that acts on every row beside it.
        n_threads: Threads for compute.

    Raises:
        InputError: A sequence is empty.
        OutOfRangeError: A cartridge made activations leave their range.
    """
    if any(len(sequence) == 0 for sequence in sequences):
        raise InputError("a sequence without tokens cannot be scored")
    if not sequences:
        return
    doses = effective(steering)
    hook = SteeringHook(model, max_rows=ROWS_PER_DECODE) if doses else None
    for dose in doses:
        if hook is not None:
            hook.load(dose.cartridge)
    # What stands before all of them is computed once, in a sequence of its own.
    shared = min(shared_beginning(sequences), *first_rows) if len(sequences) > 1 else 0
    shared = shared if shared >= LEAST_SHARED else 0
    tails = [sequence[shared:] for sequence in sequences]
    n_cells = max(ROWS_PER_DECODE, *map(len, tails))
    runs = list(fillings(tails, n_cells, MAX_SEQUENCES - bool(shared)))
    with Context(
        model,
        n_ctx=shared + n_cells,
        n_batch=ROWS_PER_DECODE,
        # llama.cpp reserves n_vocab floats for each, twice.
        n_seq_max=max(map(len, runs)) + bool(shared),
        n_outputs=OUTPUTS_PER_DECODE,
        n_threads=n_threads,
        hook=hook,
    ) as context:
        apply_control(context, control)

        acting = [RowSteering(doses, model.token_bytes) for _ in sequences]

        def decode(rows: Sequence[Row], first: int) -> None:
            if hook is not None:
                hook.set_rows(
                    [acting[row.sequence].at(sequences[row.sequence], row.position) for row in rows]
                )
            context.decode(as_batch(rows, first))
            if hook is not None:
                hook.take_report().check()
            computed(len(rows))

        head = rows_of([sequences[0][:shared]], range(1), lambda _s, _i: False)
        for rows in slices(head, context.n_batch):
            decode(rows, 0)
        for run in runs:
            if shared:
                for sequence in range(1, context.n_seq_max):
                    context.remove(sequence)
                for sequence in range(1, len(run) + 1):
                    context.copy(0, sequence, shared)
            else:
                context.clear()
            wanted = rows_beside(
                sequences,
                run,
                lambda s, i: i >= first_rows[s] and (only is None or i in only[s]),
                shared,
                [
                    min(first, len(own) - 1)
                    for first, own in zip(first_rows, sequences, strict=True)
                ],
            )
            for rows in slices(wanted, context.n_batch, context.n_outputs):
                decode(rows, run.start - bool(shared))
                for number, row in enumerate(rows):
                    if row.output:
                        visitor(row.sequence, row.position, context.logits(number))


def log_likelihoods(
    model: Model,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    steering: Steering = UNSTEERED,
    control: Control | None = None,
    n_threads: int | None = None,
) -> list[NDArray[np.float64]]:
    """Log-probability of every token of given continuations, in nats.

    Args:
        model: The model.
        prompts: Token ids, each at least one token.
        continuations: Token ids; an empty one gives an empty array.
        steering: What acts on every row, the prompt's as well.
        control: See `visit_logits`.
        n_threads: Threads for compute.

    Returns:
        For each pair an array [T], T the length of its continuation.

    Raises:
        InputError: A prompt is empty.
    """
    if any(len(prompt) == 0 for prompt in prompts):
        raise InputError("a prompt without tokens cannot be scored")
    full = [[*p, *c] for p, c in zip(prompts, continuations, strict=True)]
    out = [np.zeros(len(c), np.float64) for c in continuations]
    firsts = [len(p) - 1 if c else len(p) for p, c in zip(prompts, continuations, strict=True)]

    def visit(s: int, row: int, logits: NDArray[np.float32]) -> None:
        if row + 1 < len(full[s]):
            token = full[s][row + 1]
            out[s][row - firsts[s]] = float(logits[token]) - log_sum_exp(logits)

    # The last token is predicted, never read.
    visit_logits(
        model,
        [tokens[:-1] if c else tokens for tokens, c in zip(full, continuations, strict=True)],
        firsts,
        visit,
        steering=steering,
        control=control,
        n_threads=n_threads,
    )
    return out


def reference(
    model: Model,
    sequences: Sequence[Sequence[int]],
    *,
    steering: Steering = UNSTEERED,
    n_threads: int | None = None,
) -> Reference:
    """The model's logits on `sequences`, unsteered or not: Σ (T − 1) rows of 2 V bytes."""
    total = sum(len(sequence) - 1 for sequence in sequences)
    kept = np.zeros((total, model.n_vocab), np.float16)
    starts = np.cumsum([0, *(len(sequence) - 1 for sequence in sequences)])

    def keep(s: int, row: int, logits: NDArray[np.float32]) -> None:
        kept[starts[s] + row] = below_the_largest(logits)

    visit_logits(
        model,
        _heads(sequences),
        [0] * len(sequences),
        keep,
        steering=steering,
        n_threads=n_threads,
    )
    return Reference(tuple(map(tuple, sequences)), kept)


def score_texts(
    model: Model,
    sequences: Sequence[Sequence[int]],
    *,
    against: Reference | None = None,
    steering: Steering = UNSTEERED,
    control: Control | None = None,
    n_threads: int | None = None,
) -> TextScores:
    """Log-likelihood of texts, and KL to the model of a reference where one is given.

    Args:
        model: The model.
        sequences: Token ids of the texts, each at least two.
        against: Made by `reference` of the same texts.
        steering: What acts on every row.
        control: See `visit_logits`.
        n_threads: Threads for compute.

    Raises:
        InputError: A text has fewer than two tokens, or `against` holds other texts.
    """
    if any(len(sequence) < 2 for sequence in sequences):
        raise InputError("a text of fewer than two tokens cannot be scored")
    if against is not None and against.sequences != tuple(map(tuple, sequences)):
        raise InputError("the reference was made of other texts")
    likely = tuple(np.zeros(len(sequence) - 1) for sequence in sequences)
    apart = tuple(np.zeros(len(sequence) - 1) for sequence in sequences)
    starts = np.cumsum([0, *(len(sequence) - 1 for sequence in sequences)])

    def visit(s: int, row: int, logits: NDArray[np.float32]) -> None:
        total = log_sum_exp(logits)
        likely[s][row] = float(logits[sequences[s][row + 1]]) - total
        if against is not None:
            apart[s][row] = divergence(against.logits[starts[s] + row], logits, total)

    visit_logits(
        model,
        _heads(sequences),
        [0] * len(sequences),
        visit,
        steering=steering,
        control=control,
        n_threads=n_threads,
    )
    return TextScores(likely, apart if against is not None else None)


def log_sum_exp(logits: NDArray[np.float32]) -> float:
    """Log Σ exp over a row [V], sound for any finite logits."""
    top = float(logits.max())
    scratch = logits - np.float32(top)
    np.exp(scratch, out=scratch)
    return top + float(np.log(float(scratch.sum())))


def below_the_largest(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """A row [V] less its largest, as it is kept in float16."""
    # Under −6e4 the probability is 0 in any precision, and float16 would overflow.
    lowered: NDArray[np.float32] = np.maximum(logits - logits.max(), np.float32(-6e4))
    return lowered


def divergence(base: NDArray[np.float16], logits: NDArray[np.float32], total: float) -> float:
    """KL(base ‖ this) in nats: Σ p (z_p − z_q) − log Σ exp z_p + log Σ exp z_q.

    Args:
        base: z_p, a row [V] of `below_the_largest`.
        logits: z_q, [V].
        total: Log Σ exp z_q.
    """
    z = base.astype(np.float32)
    weights = np.exp(z)
    mass = float(weights.sum())
    z -= logits
    # Dot products of float32 lose less than the rounding of `base` does.
    gap = float(weights @ z) / mass
    return max(0.0, gap + total - float(np.log(mass)))


def _heads(sequences: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    return [sequence[:-1] for sequence in sequences]
