"""Throughput of one batch with many different cartridges in it.

16 sequences decode together; with K = 1, 2, 4, 8 and 16 different cartridges among them (of the
same size and with memory of their own, made from the given one) against all of them unsteered.
Twice: the runner's steps alone, with fixed tokens; and whole generations through the engine,
greedy, end of text ignored, one thread a client.

Usage: mixed_batch.py [--sequences 16] [--tokens 96]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
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
from llamacart.llama.model import Model
from llamacart.runner import LlamaRunner
from llamacart.values.batch import RunBatch
from llamacart.values.sampling import SamplingParams
from llamacart.values.steering import UNSTEERED, Dose, Steering
from llamacart_server.engine.engine import Engine
from llamacart_server.engine.request import GenerationRequest, PlacedDose

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BASE = "unsteered"
PROMPT = 16
GREEDY = SamplingParams(temperature=0.0)


def steps_per_second(
    runner: LlamaRunner, texts: Sequence[Sequence[int]], steerings: Sequence[Steering]
) -> float:
    """Tokens a second of steps that append one token to every text, by the median step."""
    owners = list(range(len(texts)))
    times = []
    runner.clear()
    for owner in owners:
        tokens = list(texts[owner][:PROMPT])
        outputs = [False] * (PROMPT - 1) + [True]
        same = [steerings[owner]] * PROMPT
        runner.run(RunBatch(tokens, list(range(PROMPT)), [owner] * PROMPT, outputs, same))
    for position in range(PROMPT, len(texts[0])):
        tokens = [text[position] for text in texts]
        where, outputs = [position] * len(owners), [True] * len(owners)
        batch = RunBatch(tokens, where, owners, outputs, steerings)
        start = time.perf_counter()
        runner.run(batch)
        times.append(time.perf_counter() - start)
    runner.clear()
    return len(texts) / statistics.median(times)


def served_per_second(
    engine: Engine,
    model: Model,
    turns: Iterator[int],
    steerings: Sequence[Steering],
    n_tokens: int,
) -> float:
    """Tokens a second of as many generations as steerings, all submitted at once.

    Every turn has prompts of its own, so that none finds its prompt computed by an earlier one.
    """
    turn = next(turns)
    requests = [
        GenerationRequest(
            prompt=labelled_prompt(model, f"{turn * len(steerings) + i}: ", PROMPT),
            max_tokens=n_tokens,
            doses=tuple(PlacedDose(dose) for dose in steering),
            sampling=GREEDY,
            ignore_eos=True,
        )
        for i, steering in enumerate(steerings)
    ]
    return n_tokens * len(requests) / served_seconds(engine, requests, n_tokens)


def served_seconds(engine: Engine, requests: Sequence[GenerationRequest], n_tokens: int) -> float:
    """Seconds until all of some requests, submitted at once, have their `n_tokens` tokens."""

    def count(request: GenerationRequest) -> int:
        return sum(1 for _ in engine.submit(request).events())

    with ThreadPoolExecutor(len(requests)) as pool:
        start = time.perf_counter()
        counts = list(pool.map(count, requests))
        seconds = time.perf_counter() - start
    assert counts == [n_tokens] * len(requests), counts
    return seconds


def labelled_prompt(model: Model, label: str, length: int) -> tuple[int, ...]:
    """`length` tokens that begin with a label, so that they part early from another label's."""
    head = [*fixed_tokens(model, 1), *model.tokenize(label, add_special=False)]
    return tuple((head + fixed_tokens(model, length)[1:])[:length])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_options(parser)
    add_run_options(parser)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--kinds", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--steps", type=int, default=64, help="the runner's timed steps in a turn")
    parser.add_argument("--tokens", type=int, default=96, help="tokens of each generation")
    options = parser.parse_args()
    given = read_cartridge(options.cartridge)
    cartridges = distinct(given, max(options.kinds))
    choices: list[Steering] = [(Dose(c, given.metadata.default_alpha),) for c in cartridges]
    mixes: dict[str, list[Steering]] = {BASE: [UNSTEERED] * options.sequences}
    for kinds in options.kinds:
        name = f"{kinds} cartridge{'s' * (kinds > 1)}"
        mixes[name] = [choices[i % kinds] for i in range(options.sequences)]
    length = PROMPT + max(options.steps, options.tokens)
    with (
        Model(options.model, batch_invariant=options.batch_invariant) as model,
        LlamaRunner(
            model,
            # More than needed, so that no request waits for cells.
            n_ctx=2 * options.sequences * length,
            n_sequences=options.sequences,
            n_threads=options.threads,
        ) as runner,
    ):
        report = Report(machine_facts(options.threads) | model_facts(model, given), options.json)
        for cartridge in cartridges:
            runner.load(cartridge)
        n = PROMPT + options.steps
        texts = [fixed_tokens(model, n, start=5 * row) for row in range(options.sequences)]
        steppers = {
            name: partial(steps_per_second, runner, texts, mix) for name, mix in mixes.items()
        }
        # In a thread that ends: its OpenMP team would stay, and slow down the engine's.
        with ThreadPoolExecutor(1) as lane:
            samples = lane.submit(alternate, steppers, options.repeats).result()
        title = f"runner, {options.sequences} sequences"
        report.compare(Comparison(title, "tokens/s", BASE, samples))
        for cartridge in cartridges:
            runner.unload(cartridge)
        turns = itertools.count()
        with Engine(runner) as engine:
            for cartridge in cartridges:
                engine.load(cartridge)
            samples = alternate(
                {
                    name: partial(served_per_second, engine, model, turns, mix, options.tokens)
                    for name, mix in mixes.items()
                },
                options.repeats,
            )
        title = f"engine, {options.sequences} generations of {options.tokens} tokens"
        report.compare(Comparison(title, "tokens/s", BASE, samples))
    report.write()


if __name__ == "__main__":
    main()
