"""What steering adds to the time of a decode step.

Compares, at 1, 4 and 16 rows a step: a llama.cpp context with no callback; the callback there but
no row steered; every row steered by one cartridge; every row steered by three cartridges at once
(three of the same size with memory of their own, made from the given one). Tokens are fixed,
nothing is sampled; in each turn every variant's KV cache is filled anew with the same text, and the
median of its timed steps counts. On a machine that others use too, `--clock processor` counts the
process's processor time, which with one thread is what a step would take alone.

Usage: decode_overhead.py [--steps 64] [--rows 1 4 16] [--clock processor --threads 1]
"""

from __future__ import annotations

import argparse
import statistics
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
    distinct,
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
    from collections.abc import Callable, Sequence

PLAIN = "no callback"
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


class Stepper:
    """One context, and the way its steps are steered.

    Args:
        model: The model.
        cells: KV cells.
        n_rows: Most sequences.
        steering: What acts on every row; None makes a context without a callback.
        threads: Threads for compute.
        clock: Seconds of whatever counts.
    """

    def __init__(
        self,
        model: Model,
        *,
        cells: int,
        n_rows: int,
        steering: Steering | None,
        threads: int | None,
        clock: Callable[[], float],
    ) -> None:
        self._steering = steering
        self._clock = clock
        self._run: Callable[[Batch], object]
        self._clear: Callable[[], object]
        if steering is None:
            # As the runner makes its own, but for the hook.
            context = Context(
                model,
                n_ctx=cells,
                n_batch=512,
                n_seq_max=n_rows,
                n_outputs=n_rows,
                n_threads=threads,
            )
            self._run, self._clear, self.close = context.decode, context.clear, context.close
        else:
            runner = LlamaRunner(
                model, n_ctx=cells, n_batch=512, n_sequences=n_rows, n_threads=threads
            )
            for dose in steering:
                runner.load(dose.cartridge)
            self._run = partial(self._steer, runner)
            self._clear, self.close = runner.clear, runner.close

    def _steer(self, runner: LlamaRunner, batch: Batch) -> None:
        steering = self._steering or UNSTEERED
        runner.run(RunBatch(**vars(batch), steerings=[steering] * len(batch.tokens)))

    def median_step(self, texts: Sequence[Sequence[int]], n_filled: int) -> float:
        """Milliseconds of a step that appends one token to every text.

        Args:
            texts: The tokens of each sequence.
            n_filled: Tokens of each that are computed before the clock starts.
        """
        owners = list(range(len(texts)))
        self._clear()
        for owner in owners:
            head = list(texts[owner][:n_filled])
            n = len(head)
            self._run(Batch(head, list(range(n)), [owner] * n, [False] * (n - 1) + [True]))
        times = []
        for position in range(n_filled, len(texts[0])):
            tokens = [text[position] for text in texts]
            batch = Batch(tokens, [position] * len(owners), owners, [True] * len(owners))
            start = self._clock()
            self._run(batch)
            times.append(self._clock() - start)
        return statistics.median(times) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_options(parser)
    add_run_options(parser, repeats=7)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, default=64, help="timed steps in a turn")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="time that counts")
    parser.add_argument("--filled", type=int, default=32, help="tokens in the cache before them")
    options = parser.parse_args()
    given = read_cartridge(options.cartridge)
    doses = [Dose(cartridge, given.metadata.default_alpha) for cartridge in distinct(given, 3)]
    steerings: dict[str, Steering | None] = {
        PLAIN: None,
        "callback, unsteered": UNSTEERED,
        "1 cartridge": (doses[0],),
        "3 cartridges": tuple(doses),
    }
    most, length = max(options.rows), options.filled + options.steps
    with ExitStack() as owned:
        model = owned.enter_context(Model(options.model, batch_invariant=options.batch_invariant))
        report = Report(machine_facts(options.threads) | model_facts(model, given), options.json)
        steppers: dict[str, Stepper] = {}
        for name, steering in steerings.items():
            steppers[name] = Stepper(
                model,
                cells=most * length,
                n_rows=most,
                steering=steering,
                threads=options.threads,
                clock=CLOCKS[options.clock],
            )
            owned.callback(steppers[name].close)
        for n_rows in options.rows:
            texts = [fixed_tokens(model, length, start=5 * row) for row in range(n_rows)]
            samples = alternate(
                {
                    name: partial(stepper.median_step, texts, options.filled)
                    for name, stepper in steppers.items()
                },
                options.repeats,
            )
            title = f"decode step of {n_rows} rows"
            unit = "ms a step" if options.clock == "wall" else "processor ms a step"
            report.compare(Comparison(title, unit, PLAIN, samples))
    report.write()


if __name__ == "__main__":
    main()
