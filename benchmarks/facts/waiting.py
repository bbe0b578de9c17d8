"""What it costs that a cartridge waits for a text: tokens a second of whole generations.

A cartridge that always acts ("always") is compared with the same one that waits for one of 1, 40 or
1 000 names. The prompts name one of them at once, so that it acts on all that follows: what remains
is the search in what has been said. One generation and 16 at once go through the engine, greedy,
end of text ignored; then prompts of 512 tokens are read, each with one token behind it.

Usage: facts/waiting.py [--names 1 40 1000] [--tokens 96] [--prompt 512]
"""

from __future__ import annotations

import argparse
import itertools
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import (
    Comparison,
    Report,
    add_model_options,
    add_run_options,
    alternate,
    machine_facts,
    model_facts,
)
from mixed_batch import GREEDY, labelled_prompt, served_seconds

from llamacart.file.reader import read_cartridge
from llamacart.llama.model import Model
from llamacart.runner import LlamaRunner
from llamacart.values.steering import Dose
from llamacart_server.engine.engine import Engine
from llamacart_server.engine.request import GenerationRequest, PlacedDose

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = "always"
NAME = "Velmora"
"""Every prompt names it, behind a number."""
SHORT = 24


def names(count: int) -> tuple[str, ...]:
    """So many names that nobody bears, `NAME` among them."""
    return (NAME, *(f"{NAME[:3]}{i}" for i in range(count - 1)))


def prompt(model: Model, number: int, length: int) -> tuple[int, ...]:
    """`length` tokens that name it at once; those of another number part from them early."""
    return labelled_prompt(model, f"{number} {NAME}:", length)


def tokens_per_second(
    engine: Engine, model: Model, turns: Iterator[int], dose: Dose, work: tuple[int, int, int]
) -> float:
    """Tokens a second, those of the prompts included, of generations submitted at once.

    Args:
        engine: It has the cartridge.
        model: Its model.
        turns: Numbers never used before, so that no prompt is found in the prefix cache.
        dose: What acts.
        work: Generations, tokens of each prompt, tokens of each answer.
    """
    count, length, n_tokens = work
    requests = [
        GenerationRequest(
            prompt=prompt(model, next(turns), length),
            max_tokens=n_tokens,
            doses=(PlacedDose(dose),),
            sampling=GREEDY,
            ignore_eos=True,
        )
        for _ in range(count)
    ]
    return count * (length + n_tokens) / served_seconds(engine, requests, n_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_options(parser)
    add_run_options(parser)
    parser.add_argument("--names", type=int, nargs="+", default=[1, 40, 1000])
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--tokens", type=int, default=96, help="tokens of each answer")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the long prompt")
    options = parser.parse_args()
    cartridge = read_cartridge(options.cartridge)
    alpha = cartridge.metadata.default_alpha
    doses = {BASE: Dose(cartridge, alpha, when=())} | {
        f"waits for {count}": Dose(cartridge, alpha, when=names(count)) for count in options.names
    }
    works = {
        f"{count} generations of {options.tokens} tokens": (count, SHORT, options.tokens)
        for count in options.sequences
    } | {f"a prompt of {options.prompt} tokens": (1, options.prompt, 1)}
    most = max(options.sequences)
    with (
        Model(options.model, batch_invariant=options.batch_invariant) as model,
        LlamaRunner(
            model,
            n_ctx=2 * most * (SHORT + options.tokens) + 2 * options.prompt,
            n_sequences=most,
            n_threads=options.threads,
        ) as runner,
        Engine(runner) as engine,
    ):
        report = Report(
            machine_facts(options.threads) | model_facts(model, cartridge), options.json
        )
        engine.load(cartridge)
        turns = itertools.count()
        for title, work in works.items():
            ways = {
                name: partial(tokens_per_second, engine, model, turns, dose, work)
                for name, dose in doses.items()
            }
            samples = alternate(ways, options.repeats)
            report.compare(Comparison(title, "tokens/s", BASE, samples))
    report.write()


if __name__ == "__main__":
    main()
