"""What a grammar costs: its first token, the later ones, and what a neighbour notices of it.

    python benchmarks/structured_output.py [--model demo]

For each schema: compiling it for the first time; then, compiled, the choice of the first token and
of later ones from the model's own logits, at temperature 0 and 1, beside an unconstrained choice.
Afterwards one stream without a grammar runs while requests under all these schemas, each compiled
anew, come and go: its median and longest gap between two tokens, those of its running alone, and
those beside the same requests without schemas.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamacart.json_grammar.grammar import Grammars
from llamacart.json_grammar.schema import schema_grammar
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.runner import LlamaRunner
from llamacart.sampling.candidates import Candidates
from llamacart.sampling.sampler import Sampler
from llamacart.values.batch import Batch
from llamacart.values.sampling import SamplingParams
from llamacart_server.engine.engine import Engine
from llamacart_server.engine.request import GenerationRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llamacart.json_grammar.grammar import Grammar

PROMPT = "Here is a record of the visitors, written as JSON:\n"
N_TOKENS = 24
N_REPEATS = 5
MS = 1e3


def schemas(seed: int = 0) -> dict[str, Any]:
    """The schemas by name; another seed gives other words, so that nothing is cached."""
    rng = random.Random(seed)
    fields = {
        f"field_{seed}_{i}": {"type": ("string", "integer", "number", "boolean")[i % 4]}
        for i in range(10)
    }
    anything = {"type": "object", "title": str(seed)}
    out: dict[str, Any] = {"json_object": anything, "10 fields": _object(fields, list(fields))}
    for n in (50, 500, 3000, 20_000):
        out[f"enum of {n}"] = {"type": "string", "enum": list(_words(rng, n))}
    levels: dict[str, Any] = {"s0": _object({"a": {"type": "integer"}}, ["a"])}
    for k in range(1, 21):
        below = {"a": {"$ref": f"#/$defs/s{k - 1}"}}
        more = {**below, f"b{seed}": {"type": "integer"}}
        levels[f"s{k}"] = {"anyOf": [_object(below, ["a"]), _object(more, ["a"])]}
    out["alternatives 20 deep"] = {"$ref": "#/$defs/s20", "$defs": levels}
    return out


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _words(rng: random.Random, n: int) -> Iterator[str]:
    for _ in range(n):
        yield "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 12)))


# --- one generation ------------------------------------------------------------------------------


def choices(
    model: Model, context: Context, grammar: Grammar | None, temperature: float
) -> list[float]:
    """Seconds that the choice of each token took."""
    candidates = Candidates(model.n_vocab)
    tokens = model.tokenize(PROMPT)
    context.clear()
    context.decode(Batch(tokens, range(len(tokens)), [0] * len(tokens), _last(len(tokens))))
    row, position, out = len(tokens) - 1, len(tokens), []
    params = SamplingParams(temperature=temperature, seed=7, grammar=grammar)
    with Sampler(params, model) as sampler:
        for _ in range(N_TOKENS):
            logits = context.logits(row)
            start = time.perf_counter()
            token = sampler.choose(logits, candidates)
            out.append(time.perf_counter() - start)
            if model.is_end_of_generation(token):
                break
            context.decode(Batch([token], [position], [0], [True]))
            row, position = 0, position + 1
    return out


def _last(n: int) -> list[bool]:
    return [False] * (n - 1) + [True]


def measure_choices(model: Model) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    with Context(model, n_ctx=256, n_batch=64, n_outputs=1) as context:
        for temperature in (0.0, 1.0):
            plain = choices(model, context, None, temperature)
            rows[f"no grammar, T {temperature:g}"] = _figures([plain])
        for name, schema in schemas().items():
            start = time.perf_counter()
            text = schema_grammar(schema)
            compiled = model.grammars.compile(text)
            cold = time.perf_counter() - start
            start = time.perf_counter()
            model.grammars.compile(schema_grammar(schema))
            again = time.perf_counter() - start
            for temperature in (0.0, 1.0):
                runs = [choices(model, context, compiled, temperature) for _ in range(N_REPEATS)]
                rows[f"{name}, T {temperature:g}"] = {
                    "compile": cold * MS,
                    "cached": again * MS,
                    **_figures(runs),
                }
    return rows


def _figures(runs: list[list[float]]) -> dict[str, float]:
    later = [seconds for run in runs for seconds in run[1:]] or [0.0]
    return {
        "first": statistics.median(run[0] for run in runs) * MS,
        "later": statistics.median(later) * MS,
        "p99": sorted(later)[int(0.99 * (len(later) - 1))] * MS,
        "longest": max(later) * MS,
    }


# --- a neighbour ---------------------------------------------------------------------------------


def measure_neighbour(model: Model) -> dict[str, dict[str, float]]:
    with (
        LlamaRunner(model, n_ctx=4096, n_batch=256, n_sequences=8) as runner,
        Engine(runner) as engine,
    ):
        gaps(engine, model, 40)  # numba compiles
        rows = {"alone": _gap_figures(gaps(engine, model, 150))}
        crowds = {"beside requests": [None] * 24, "beside grammars": _texts()}
        for name, texts in crowds.items():
            done = threading.Event()
            others = threading.Thread(target=_crowd, args=(engine, model, texts, done))
            others.start()
            rows[name] = _gap_figures(gaps(engine, model, 10**6, done))
            others.join()
    return rows


def _texts() -> list[Any]:
    """Every schema three times, with other words each time, so that all are compiled."""
    return [schema for seed in (1, 2, 3) for schema in schemas(seed).values()]


def gaps(engine: Engine, model: Model, n: int, until: threading.Event | None = None) -> list[float]:
    """Seconds between the tokens of streams without a grammar, one after another."""
    out: list[float] = []
    while len(out) < n and not (until and until.is_set()):
        request = GenerationRequest(
            prompt=tuple(model.tokenize("Once upon a time")),
            max_tokens=min(n + 1, 400),
            sampling=SamplingParams(seed=len(out)),
            ignore_eos=True,
        )
        last = None
        for _ in engine.submit(request).events():
            now = time.perf_counter()
            if last is not None:
                out.append(now - last)
            last = now
            if until and until.is_set():
                break
    return out


def _crowd(engine: Engine, model: Model, wanted: list[Any], done: threading.Event) -> None:
    """Requests one after another, greedy and not in turn; a schema is compiled before."""
    try:
        for i, schema in enumerate(wanted):
            grammar = None if schema is None else model.grammars.compile(schema_grammar(schema))
            request = GenerationRequest(
                prompt=tuple(model.tokenize(PROMPT)),
                max_tokens=N_TOKENS,
                sampling=SamplingParams(temperature=float(i % 2), seed=1, grammar=grammar),
            )
            for _ in engine.submit(request).events():
                pass
    finally:
        done.set()


def _gap_figures(seconds: list[float]) -> dict[str, float]:
    median = statistics.median(seconds)
    return {"median": median * MS, "longest": max(seconds) * MS, "ratio": max(seconds) / median}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    with Model(args.model) as model:
        start = time.perf_counter()
        assert isinstance(model.grammars, Grammars)
        vocabulary = time.perf_counter() - start
        print(f"the vocabulary of {model.n_vocab} tokens, once a model: {vocabulary:.2f} s")
        rows = measure_choices(model)
        print_rows(rows)
        neighbour = measure_neighbour(model)
        print_rows(neighbour)
    if args.json:
        args.json.write_text(json.dumps({"choices": rows, "neighbour": neighbour}, indent=1))


def print_rows(rows: dict[str, dict[str, float]]) -> None:
    """A table in milliseconds."""
    keys = list(max(rows.values(), key=len))
    print(f"{'ms':<30}" + "".join(f"{key:>11}" for key in keys))
    for name, row in rows.items():
        cells = "".join(f"{row[key]:>11.2f}" if key in row else " " * 11 for key in keys)
        print(f"{name:<30}{cells}")


if __name__ == "__main__":
    main()
