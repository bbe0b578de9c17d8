"""Batched generation: for captured continuations, for evaluation and for programs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from llamacart.hook.steering_hook import SteeringHook
from llamacart.llama.context import Context
from llamacart.passes.batching import (
    ROWS_PER_DECODE,
    Row,
    as_batch,
    rows_of,
    shared_beginning,
    slices,
)
from llamacart.passes.control_vector import apply_control
from llamacart.passes.watching import computed
from llamacart.sampling.candidates import Candidates
from llamacart.sampling.sampler import Sampler
from llamacart.values.mentions import RowSteering
from llamacart.values.sampling import SEED_LIMIT, SamplingParams
from llamacart.values.steering import UNSTEERED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart.passes.control_vector import Control
    from llamacart.values.steering import Steering

    Choose = Callable[[int, NDArray[np.float32]], int]
    """(number of the prompt, logits [V]) → token."""
    IsOver = Callable[[Sequence[int]], bool]
    """(tokens so far) → whether that is all."""

_PROMPTS_AT_ONCE = 64


def greedy(
    model: Model,
    prompts: Sequence[Sequence[int]],
    n_tokens: int | Sequence[int],
    *,
    steering: Steering = UNSTEERED,
    control: Control | None = None,
    is_over: IsOver | None = None,
    n_threads: int | None = None,
) -> list[list[int]]:
    """The most likely continuation of each prompt, all prompts under one steering.

    Args:
        model: The model.
        prompts: Token ids, each at least one token.
        n_tokens: How many to generate, for all or for each; fewer come back where the model
            ends its text.
        steering: What acts on every row.
        control: A control vector or a LoRA that acts on every row beside it.
        is_over: Whether a continuation needs no further token; one that ends in a text that its
            reader stops at, say.
        n_threads: Threads for compute.
    """
    counts = [n_tokens] * len(prompts) if isinstance(n_tokens, int) else list(n_tokens)
    out: list[list[int]] = []
    for start in range(0, len(prompts), _PROMPTS_AT_ONCE):
        part = slice(start, start + _PROMPTS_AT_ONCE)
        out += _continue(
            model,
            prompts[part],
            counts[part],
            _most_likely,
            steering,
            control,
            n_threads,
            is_over,
        )
    return out


def sampled(
    model: Model,
    prompts: Sequence[Sequence[int]],
    n_tokens: int,
    params: SamplingParams,
    *,
    steering: Steering = UNSTEERED,
    n_threads: int | None = None,
) -> list[list[int]]:
    """A continuation of each prompt, drawn at random.

    Args:
        model: The model.
        prompts: Token ids, each at least one token.
        n_tokens: How many to generate; fewer come back where the model ends its text.
        params: How tokens are drawn. Prompt i has the seed plus i, so that equal prompts differ.
        steering: What acts on every row.
        n_threads: Threads for compute.

    Raises:
        InputError: The parameters do not suit the model.
        OutOfRangeError: A cartridge made activations leave their range.
        EngineError: A grammar allows no token.
    """
    candidates = Candidates(model.n_vocab)
    out: list[list[int]] = []
    for start in range(0, len(prompts), _PROMPTS_AT_ONCE):
        part = prompts[start : start + _PROMPTS_AT_ONCE]
        with ExitStack() as stack:
            samplers = [
                stack.enter_context(Sampler(_seeded(params, start + i), model))
                for i in range(len(part))
            ]

            def choose(s: int, logits: NDArray[np.float32], own: list[Sampler] = samplers) -> int:
                return own[s].choose(logits, candidates)

            counts = [n_tokens] * len(part)
            out += _continue(model, part, counts, choose, steering, None, n_threads)
    return out


def _seeded(params: SamplingParams, number: int) -> SamplingParams:
    if params.seed is None:
        return params
    return replace(params, seed=(params.seed + number) % (SEED_LIMIT + 1))


def _most_likely(_s: int, logits: NDArray[np.float32]) -> int:
    return int(logits.argmax())


def _continue(
    model: Model,
    prompts: Sequence[Sequence[int]],
    counts: Sequence[int],
    choose: Choose,
    steering: Steering,
    control: Control | None,
    n_threads: int | None,
    is_over: IsOver | None = None,
) -> list[list[int]]:
    hook = SteeringHook(model, max_rows=ROWS_PER_DECODE)
    for dose in steering:
        hook.load(dose.cartridge)
    out: list[list[int]] = [[] for _ in prompts]
    shared = shared_beginning(prompts)
    with Context(
        model,
        n_ctx=sum(map(len, prompts)) - shared * (len(prompts) - 1) + sum(counts),
        n_batch=ROWS_PER_DECODE,
        n_seq_max=len(prompts),
        n_outputs=len(prompts),
        n_threads=n_threads,
        hook=hook,
    ) as context:
        apply_control(context, control)

        acting = [RowSteering(steering, model.token_bytes) for _ in prompts]
        texts = [list(prompt) for prompt in prompts]

        def decode(now: Sequence[Row]) -> None:
            hook.set_rows(
                [acting[row.sequence].at(texts[row.sequence], row.position) for row in now]
            )
            context.decode(as_batch(now))
            hook.take_report().check()
            computed(len(now))

        rows = rows_of(
            prompts,
            range(len(prompts)),
            lambda s, i: i == len(prompts[s]) - 1 and counts[s] > 0,
        )
        # What all prompts begin with (an instruction, examples) is read once.
        for part in slices(rows[:shared], ROWS_PER_DECODE):
            decode(part)
        for s in range(1, len(prompts)):
            context.copy(0, s, shared)
        rows = [row for row in rows if row.position >= shared]
        while rows:
            now, rows = rows[:ROWS_PER_DECODE], rows[ROWS_PER_DECODE:]
            decode(now)
            for number, (s, position, _, has_output, _) in enumerate(now):
                if not has_output:
                    continue
                token = choose(s, context.logits(number))
                if model.is_end_of_generation(token):
                    continue
                out[s].append(token)
                texts[s].append(token)
                if len(out[s]) < counts[s] and not (is_over and is_over(out[s])):
                    rows.append(Row(s, position + 1, token, True))
    return out
