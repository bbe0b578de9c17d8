"""What steering adds to the time of reading a prompt.

A prompt of 512 and one of 2048 tokens, in steps of 512 rows, into an empty KV cache: a context with
no callback ("no callback"), one with the callback but no row steered ("unsteered"), and the same
with every row steered by the cartridge.

Usage: prefill.py [--lengths 512 2048]
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from harness import (
    Comparison,
    Report,
    add_model_options,
    add_run_options,
    alternate,
    fixed_tokens,
    machine_facts,
    model_facts,
)

from llamacart.file.reader import read_cartridge
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.runner import LlamaRunner
from llamacart.values.batch import Batch, RunBatch
from llamacart.values.steering import UNSTEERED, Dose, Steering

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BASE = "unsteered"
N_BATCH = 512


def chunks(tokens: Sequence[int]) -> Iterator[Batch]:
    """The prompt in steps of `N_BATCH` rows, with logits after its last token."""
    last = len(tokens) - 1
    for start in range(0, len(tokens), N_BATCH):
        rows = range(start, min(start + N_BATCH, len(tokens)))
        outputs = [i == last for i in rows]
        yield Batch([tokens[i] for i in rows], list(rows), [0] * len(rows), outputs)


def plain_seconds(context: Context, tokens: Sequence[int]) -> float:
    """Seconds to read the prompt with no callback."""
    context.clear()
    return _seconds(context.decode, list(chunks(tokens)))


def runner_seconds(runner: LlamaRunner, steering: Steering, tokens: Sequence[int]) -> float:
    """Seconds to read the prompt, every row steered by `steering`."""
    runner.clear()
    batches = [RunBatch(**vars(b), steerings=[steering] * len(b.tokens)) for b in chunks(tokens)]
    return _seconds(runner.run, batches)


def _seconds(run: Callable[..., object], batches: Sequence[Batch]) -> float:
    start = time.perf_counter()
    for batch in batches:
        run(batch)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_options(parser)
    add_run_options(parser)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048])
    options = parser.parse_args()
    cartridge = read_cartridge(options.cartridge)
    steered: Steering = (Dose(cartridge, cartridge.metadata.default_alpha),)
    cells = max(options.lengths)
    with ExitStack() as owned:
        model = owned.enter_context(Model(options.model, batch_invariant=options.batch_invariant))
        facts = machine_facts(options.threads) | model_facts(model, cartridge)
        report = Report(facts, options.json)
        context = owned.enter_context(
            Context(model, n_ctx=cells, n_batch=N_BATCH, n_outputs=1, n_threads=options.threads)
        )
        runner = owned.enter_context(
            LlamaRunner(
                model, n_ctx=cells, n_batch=N_BATCH, n_sequences=1, n_threads=options.threads
            )
        )
        runner.load(cartridge)
        for length in options.lengths:
            tokens = fixed_tokens(model, length)
            samples = alternate(
                {
                    "no callback": partial(plain_seconds, context, tokens),
                    BASE: partial(runner_seconds, runner, UNSTEERED, tokens),
                    "1 cartridge": partial(runner_seconds, runner, steered, tokens),
                },
                options.repeats,
            )
            report.compare(Comparison(f"prompt of {length} tokens", "seconds", BASE, samples))
    report.write()


if __name__ == "__main__":
    main()
